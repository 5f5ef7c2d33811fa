# SPDX-License-Identifier: Apache-2.0
"""A toy family for training: a tower of one linear layer, and Owl3's cross-attention."""

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from owl.config.run import ModelConfig
from owl.families.owl3 import model as owl3
from owl.families.owl3.config import HyperAttentionConfig
from owl.model.projector import build_projector
from owl.model.small_model import SmallModel

projector = build_projector


def decoder_layers(model: ModelConfig) -> list[ModuleSpec]:
    """Describe each decoder layer: Owl3's, with the layers of the toy's own settings."""
    hyper = HyperAttentionConfig(layer_indices=model.toy.layers)
    return owl3.decoder_layers(replace(model, hyper_attention=hyper))


def decoder_settings(model: ModelConfig) -> dict[str, Any]:
    """The decoder is Qwen2's."""
    return owl3.decoder_settings(model)


def tower_settings(model: ModelConfig) -> dict[str, Any]:
    """The tower has no transformer layers; megatron-core wants a number."""
    return {"num_layers": 1}


def small_models(*, head_dim: int) -> dict[str, SmallModel]:
    """Make no small models: layouts are not compared."""
    return {}


class ToyTower(MegatronModule):
    """One linear layer over the 14 x 14 pixels of a patch, replicated on every rank."""

    def __init__(
        self,
        config: TransformerConfig,
        model: ModelConfig,
        *,
        pg_collection: ProcessGroupCollection,
        tile_group: dist.ProcessGroup,
    ) -> None:
        super().__init__(config=config)
        sizes = model.vision_tower
        self.patch_size = sizes.patch_size
        pixels = 3 * sizes.patch_size**2
        self.linear = nn.Linear(pixels, sizes.hidden_size, dtype=config.params_dtype)
        config.init_method(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode tiles: [m, 3, s, s] uint8 to [m, p, h_v]."""
        size = self.patch_size
        side = pixel_values.shape[-1] // size
        patches = pixel_values.unflatten(-1, (side, size)).unflatten(-3, (side, size))
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        return self.linear(patches.to(torch.float32).to(self.linear.weight.dtype) / 255)


tower = ToyTower
