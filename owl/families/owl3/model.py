# SPDX-License-Identifier: Apache-2.0
"""mPLUG-Owl3 for training: a SigLIP tower, and a Qwen2 decoder some of whose layers see images."""

from typing import Any

from megatron.core.transformer.spec_utils import ModuleSpec

from owl.config.run import ModelConfig
from owl.families.owl3.config import FusionKind
from owl.families.owl3.fusion import JointSoftmax, StaticGate, TokenGate
from owl.families.owl3.hyper_attention import (
    HyperAttention,
    HyperAttentionLayer,
    HyperAttentionSubmodules,
)
from owl.families.owl3.small_models import small_models as small_models
from owl.model.norm import RMSNorm
from owl.model.projector import build_projector
from owl.model.specs import core_attention, layer, linears, text_layer
from owl.model.tower.tile_tower import TileTower, tile_tower_settings

FUSIONS = {
    FusionKind.token_gate: TokenGate,
    FusionKind.static_gate: StaticGate,
    FusionKind.joint_softmax: JointSoftmax,
}

tower = TileTower
tower_settings = tile_tower_settings
projector = build_projector


def decoder_layers(model: ModelConfig) -> list[ModuleSpec]:
    """Describe each decoder layer: plain Qwen2, or Qwen2 that also looks at images."""
    looks_at_images = set(model.hyper_attention.layer_indices)
    plain, hyper = text_layer(model), _hyper_attention_layer(model)
    return [hyper if index in looks_at_images else plain for index in range(model.num_layers)]


def decoder_settings(model: ModelConfig) -> dict[str, Any]:
    """Qwen2 has biases on queries, keys and values only."""
    return {"add_qkv_bias": True}


def _hyper_attention_layer(model: ModelConfig) -> ModuleSpec:
    column, row = linears(model.layer_backend)
    attention = ModuleSpec(
        module=HyperAttention,
        submodules=HyperAttentionSubmodules(
            linear_qkv=column,
            core_attention=core_attention(model),
            linear_proj=row,
            linear_media_kv=column,
            fusion=FUSIONS[model.hyper_attention.fusion],
        ),
    )
    return layer(HyperAttentionLayer, RMSNorm, attention, model)
