# SPDX-License-Identifier: Apache-2.0
"""How media reach the decoder."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Cross:
    """By cross-attention: some decoder layers look at the media beside the text.

    Args:
        layers: that look, counted from 0.
        position_shift: a tile's position is the index of its first placeholder token within its
            sample, plus this. Tokens see the tile from that position on; it is also the tile's
            rotary position.
    """

    layers: tuple[int, ...]
    position_shift: int


@dataclass(frozen=True, slots=True)
class Splice:
    """In the text: a tile's vectors replace the embeddings of its placeholder tokens."""

    layers: ClassVar[tuple[int, ...]] = ()
    position_shift: ClassVar[int] = 0


MediaEntry = Cross | Splice
