# SPDX-License-Identifier: Apache-2.0
"""Adapters on this rank's model chunks: put on, counted, and merged into the weights."""

from collections.abc import Sequence

from torch import nn

from owl.config.run import LoraConfig
from owl.mcore.parameters import unwrapped
from owl.mcore.random_start import draw_adapters
from owl.model import lora


def add_adapters(chunks: Sequence[nn.Module], settings: LoraConfig, *, seed: int) -> None:
    """Put new adapters on built chunks; they add nothing until they are trained or loaded.

    Args:
        chunks: this rank's model, not yet wrapped for training.
        settings: targets and rank.
        seed: of the random start, which is the same in every layout.
    """
    for chunk in chunks:
        lora.attach(chunk, settings)
    draw_adapters(chunks, seed=seed)


def has_adapters(chunks: Sequence[nn.Module]) -> bool:
    """Whether any of this rank's layers has an adapter."""
    names = (name for chunk in chunks for name, _ in unwrapped(chunk).named_parameters())
    return any(map(lora.is_adapter, names))


def merge_adapters(chunks: Sequence[nn.Module]) -> None:
    """Add the adapters to the weights that they are on, and take them away."""
    for chunk in chunks:
        lora.merge(unwrapped(chunk))
