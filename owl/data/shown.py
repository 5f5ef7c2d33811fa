# SPDX-License-Identifier: Apache-2.0
"""How the places of a text show their media, and which pictures are cut."""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Protocol

from owl.config.run import CutPolicy
from owl.data.rng import generator

Sizes = Mapping[str, tuple[int, int]]
"""File name -> width and height in pixels, upright."""


class Shown(Protocol):
    """How one place in the text shows its media. Each family has its own; it must be hashable."""

    @property
    def files(self) -> Sequence[str]:
        """Files to read, in order."""
        ...

    @property
    def tiles(self) -> int:
        """Encoded pictures that it gives, each with a placeholder."""
        ...


class CutChoice(IntEnum):
    """Which pictures of one sample are cut."""

    none = 0
    marked = 1  # only those whose media entry says "cut": "on" (text-rich pictures)
    single = 2  # those, and a picture that is the sample's only one


def choose_cut(
    policy: CutPolicy, *, published_share: float, seed: int, source: str, epoch: int, index: int
) -> CutChoice:
    """Decide for one sample; the same arguments always give the same choice.

    Args:
        policy: the source's.
        published_share: of single pictures, cut under CutPolicy.published; the family's.
        seed: `data.seed`.
        source: its name.
        epoch: pass over the source.
        index: sample number within the source.
    """
    if policy is CutPolicy.off:
        return CutChoice.none
    if policy is CutPolicy.on:
        return CutChoice.single
    drawn = generator("cut", seed, source, epoch, index).random()
    return CutChoice.single if drawn < published_share else CutChoice.marked
