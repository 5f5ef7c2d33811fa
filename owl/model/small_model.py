# SPDX-License-Identifier: Apache-2.0
"""Small models that stand for published variants where layouts are compared (owl.parity)."""

from dataclasses import dataclass
from typing import Any

from owl.config.run import (
    AbstractorConfig,
    AttentionKind,
    ModelConfig,
    ProjectorKind,
    TowerKind,
    VisionTowerConfig,
)

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


def small_clip_llama(
    name: str, *, head_dim: int, abstractor_positions: bool, **choices: Any
) -> SmallModel:
    """Make a small LLaMA into which a CLIP tower and an abstractor splice five vectors a tile.

    Args:
        name: of the variant.
        head_dim: d; FlexAttention takes 16 and more.
        abstractor_positions: whether the abstractor has position tables. Nothing is dropped in it:
            layouts draw different masks.
        **choices: further arguments of ModelConfig, the family and its template.
    """
    heads = 8
    model = ModelConfig(
        name=name,
        hidden_size=heads * head_dim,
        ffn_hidden_size=48,
        num_layers=LAYERS,
        num_attention_heads=heads,
        num_kv_heads=4,  # as many as heads in published models; fewer are harder to cut
        vocab_size=203,
        rope_theta=1e4,
        projector=ProjectorKind.abstractor,
        abstractor=AbstractorConfig(
            num_queries=4,
            num_layers=2,
            num_attention_heads=4,
            ffn_hidden_size=40,
            positions=abstractor_positions,
        ),
        vision_tower=VisionTowerConfig(
            kind=TowerKind.clip,
            hidden_size=32,
            ffn_hidden_size=40,
            num_layers=2,
            num_attention_heads=4,
            image_size=30,
        ),
        **choices,
    )
    return SmallModel(model=model, attention=(AttentionKind.per_sample, AttentionKind.reference))
