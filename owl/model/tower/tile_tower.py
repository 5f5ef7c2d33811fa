# SPDX-License-Identifier: Apache-2.0
"""SigLIP and CLIP on megatron-core's transformer block, up to the layer whose output is used.

siglip  what mPLUG-Owl3 reads: hidden_states[-2]. The last layer, the final norm and the pooling
        head do not influence it. They are not built here; a checkpoint carries them for export.
clip    what mPLUG-Owl2 and mPLUG-Owl read: a class token in front of the patches, a norm before
        the layers, all layers, and a norm after them, over all tokens. QuickGELU.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_block import (
    TransformerBlock,
    TransformerBlockSubmodules,
)
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from owl.config.run import ModelConfig, TowerKind, VisionParallelism
from owl.model.norm import LayerNorm
from owl.model.specs import tile_layer
from owl.model.tower.tile_sharding import gather_tiles, tile_shares


def _gelu_tanh(hidden_states: Tensor) -> Tensor:
    """SigLIP's activation, gelu_pytorch_tanh."""
    return F.gelu(hidden_states, approximate="tanh")


def _quick_gelu(hidden_states: Tensor) -> Tensor:
    """CLIP's activation."""
    return hidden_states * torch.sigmoid(1.702 * hidden_states)


_ACTIVATIONS: Mapping[TowerKind, Callable[[Tensor], Tensor]] = {
    TowerKind.siglip: _gelu_tanh,
    TowerKind.clip: _quick_gelu,
}


def tile_tower_settings(model: ModelConfig) -> dict[str, Any]:
    """Return the TransformerConfig arguments of a TileTower."""
    tower = model.vision_tower
    return {"num_layers": tower.layers_run, "activation_func": _ACTIVATIONS[tower.kind]}


class TileTower(MegatronModule):
    """Tiles to features.

    Args:
        config: of the tower's layers.
        model: sizes of the tower.
        pg_collection: groups that its layers are cut over.
        tile_group: ranks that share the tiles out when the tower is image-parallel.
    """

    def __init__(
        self,
        config: TransformerConfig,
        model: ModelConfig,
        *,
        pg_collection: ProcessGroupCollection,
        tile_group: dist.ProcessGroup,
    ) -> None:
        super().__init__(config=config)
        self.tile_group = (
            tile_group if model.vision_tower.parallelism is VisionParallelism.image else None
        )
        self.tower = model.vision_tower
        self.is_clip = self.tower.kind is TowerKind.clip
        self._build_embeddings(config)
        self.encoder = TransformerBlock(
            config=config,
            spec=TransformerBlockSubmodules(
                layer_specs=[tile_layer(model)] * config.num_layers, layer_norm=LayerNorm
            ),
            post_layer_norm=self.is_clip,
            pg_collection=pg_collection,
        )
        if self.tile_group is not None:
            for parameter in self.parameters():
                # A copy, whatever its layer thinks; this rank's tiles give part of its gradient.
                parameter.tensor_model_parallel = False
                parameter.partial_over_tensor_group = True

    def _build_embeddings(self, config: TransformerConfig) -> None:
        """Build what is in front of the layers."""
        tower, dtype, width = self.tower, config.params_dtype, self.tower.hidden_size
        self.patch_embedding = PatchEmbedding(
            3, width, tower.patch_size, stride=tower.patch_size, bias=not self.is_clip, dtype=dtype
        )
        config.init_method(self.patch_embedding.weight)
        if self.patch_embedding.bias is not None:
            nn.init.zeros_(self.patch_embedding.bias)
        # As published: mPLUG-Owl's table has a dimension in front.
        table = (*([1] * self.is_clip), tower.features_per_tile, width)
        self.position_embedding = nn.Parameter(torch.empty(table, dtype=dtype))
        config.init_method(self.position_embedding)
        if self.is_clip:
            self.class_embedding = nn.Parameter(torch.empty(1, 1, width, dtype=dtype))
            config.init_method(self.class_embedding)
            self.pre_layernorm = LayerNorm(config, width, tower.layer_norm_eps)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode tiles.

        Args:
            pixel_values: [m, 3, s, s]; uint8 is normalised here, float is taken as it is.

        Returns:
            [m, p, h_v] features, p being `features_per_tile`: those of a CLIP start with the class
            token's.
        """
        if self.tile_group is None:
            return self._encode(pixel_values)
        tiles = len(pixel_values)
        mine = tile_shares(tiles, self.tile_group.size())[self.tile_group.rank()]
        return gather_tiles(self._encode(pixel_values[mine]), tiles, self.tile_group)

    def _encode(self, pixel_values: Tensor) -> Tensor:
        """Encode the tiles of this rank."""
        if not len(pixel_values):
            # A blank tile, of which nothing is kept: every parameter takes part in every
            # micro-batch, so that no rank waits for a gradient that never comes.
            return self._encode(pixel_values.new_zeros(1, *pixel_values.shape[1:]))[:0]
        embedded = self.patch_embedding(self.normalise(pixel_values))
        if self.is_clip:
            embedded = torch.cat([self.class_embedding.expand(len(embedded), -1, -1), embedded], 1)
        embedded = embedded + self.position_embedding
        if self.is_clip:
            embedded = self.pre_layernorm(embedded)
        if torch.is_grad_enabled() and not embedded.requires_grad:
            # Recomputed layers learn only where their input has a gradient: adapters are in them.
            embedded.requires_grad_()
        features = self.encoder(embedded.transpose(0, 1).contiguous(), attention_mask=None)
        if features.requires_grad:
            # The transpose's gradient has transposed strides: sums over it, such as those of
            # biases, would run in another order than in a recomputed layer.
            features.register_hook(torch.Tensor.contiguous)
        return features.transpose(0, 1)

    def sharded_state_dict(
        self,
        prefix: str = "",
        sharded_offsets: tuple[tuple[int, int, int], ...] = (),
        metadata: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Describe the weights; image-parallel ranks hold copies, of which one is saved."""
        shards = super().sharded_state_dict(prefix, sharded_offsets, metadata)
        if self.tile_group is not None:
            for shard in shards.values():
                stage, _, replica = shard.replica_id
                shard.replica_id = (stage, self.tile_group.rank(), replica)
        return shards

    def normalise(self, pixel_values: Tensor) -> Tensor:
        """Map bytes to the dtype of the tower, by mean and deviation of each colour."""
        dtype = self.position_embedding.dtype
        if pixel_values.dtype != torch.uint8:
            return pixel_values.to(dtype)
        wide = torch.promote_types(dtype, torch.float32)
        statistics = zip(self.tower.pixel_mean, self.tower.pixel_deviation, strict=True)
        # Colour by colour: a table of them would have to be copied to the device, or half precise.
        colours = [
            (colour.to(wide) / 255 - mean) / deviation
            for colour, (mean, deviation) in zip(pixel_values.unbind(1), statistics, strict=True)
        ]
        return torch.stack(colours, dim=1).to(dtype)


class PatchEmbedding(nn.Conv2d):
    """The published convolution, whose stride equals its kernel, as a matrix product."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Cut tiles into patches and embed them: [m, 3, s, s] to [m, p, h_v].

        Pixels that do not fill a patch at the right and bottom edge are dropped
        (384 = 27 x 14 + 6), as the published convolution does.
        """
        size = self.kernel_size[0]
        side = pixel_values.shape[-1] // size
        used = pixel_values[..., : side * size, : side * size]
        patches = used.unflatten(-1, (side, size)).unflatten(-3, (side, size))
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        return F.linear(patches, self.weight.flatten(1), self.bias)
