# SPDX-License-Identifier: Apache-2.0
"""mPLUG-Owl2 for training: CLIP, the abstractor, and LLaMA with modality-adaptive layers."""

from typing import Any

from megatron.core.transformer.spec_utils import ModuleSpec

from owl.config.run import FamilyKind, ModelConfig
from owl.families.owl2.modality_adaptive import (
    ModalityAdaptiveAttention,
    ModalityAdaptiveLayer,
    ModalityAdaptiveNorm,
)
from owl.families.owl2.variants_owl2 import VARIANTS
from owl.model.projector import build_projector
from owl.model.self_attention import MediaAttentionSubmodules
from owl.model.small_model import SmallModel, small_clip_llama
from owl.model.specs import core_attention, layer, linears
from owl.model.tower.tile_tower import TileTower, tile_tower_settings

tower = TileTower
tower_settings = tile_tower_settings
projector = build_projector


def decoder_layers(model: ModelConfig) -> list[ModuleSpec]:
    """Describe each decoder layer; all are alike."""
    column, row = linears(model.layer_backend)
    attention = ModuleSpec(
        module=ModalityAdaptiveAttention,
        submodules=MediaAttentionSubmodules(
            linear_qkv=column,
            core_attention=core_attention(model),
            linear_proj=row,
            linear_media_kv=column,
        ),
    )
    adaptive = layer(ModalityAdaptiveLayer, ModalityAdaptiveNorm, attention, model)
    return [adaptive] * model.num_layers


def decoder_settings(model: ModelConfig) -> dict[str, Any]:
    """LLaMA has no biases."""
    return {"add_qkv_bias": False}


def small_models(*, head_dim: int) -> dict[str, SmallModel]:
    """Make a small model of each variant, by name."""
    return {
        name: small_clip_llama(
            name,
            head_dim=head_dim,
            abstractor_positions=True,
            family=FamilyKind.owl2,
            template="mplug_owl2",
        )
        for name in VARIANTS
    }
