# SPDX-License-Identifier: Apache-2.0
"""mPLUG-Owl for training: a CLIP tower, an abstractor without positions, and a plain LLaMA."""

from typing import Any

from megatron.core.transformer.spec_utils import ModuleSpec

from owl.config.run import FamilyKind, ModelConfig
from owl.families.owl1.variants_owl1 import VARIANTS
from owl.model.projector import build_projector
from owl.model.small_model import SmallModel, small_clip_llama
from owl.model.specs import text_layer
from owl.model.tower.tile_tower import TileTower, tile_tower_settings

tower = TileTower
tower_settings = tile_tower_settings
projector = build_projector


def decoder_layers(model: ModelConfig) -> list[ModuleSpec]:
    """Describe each decoder layer; all are alike."""
    return [text_layer(model)] * model.num_layers


def decoder_settings(model: ModelConfig) -> dict[str, Any]:
    """LLaMA has no biases."""
    return {"add_qkv_bias": False}


def small_models(*, head_dim: int) -> dict[str, SmallModel]:
    """Make a small model of each variant, by name."""
    return {
        name: small_clip_llama(
            name,
            head_dim=head_dim,
            abstractor_positions=False,
            family=FamilyKind.owl1,
            template="owl1",
        )
        for name in VARIANTS
    }
