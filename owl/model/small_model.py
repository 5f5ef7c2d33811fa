# SPDX-License-Identifier: Apache-2.0
"""Small models that stand for published variants where layouts are compared (owl.parity)."""

from dataclasses import dataclass

from owl.config.run import AttentionKind, ModelConfig

LAYERS = 8
"""Of each small model's decoder: four pipeline stages of two chunks each."""


@dataclass(frozen=True)
class SmallModel:
    """A variant in small.

    Args:
        model: its sizes: an odd vocabulary, several key-value heads, LAYERS layers.
        attention: backends that run on a CPU and compute this variant differently.
    """

    model: ModelConfig
    attention: tuple[AttentionKind, ...]
