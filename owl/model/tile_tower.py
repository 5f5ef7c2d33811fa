# SPDX-License-Identifier: Apache-2.0
"""SigLIP on megatron-core's transformer block, up to the layer whose output is used.

The published model reads hidden_states[-2]: the last layer, the final norm and the pooling head do
not influence it. They are not built here; a checkpoint carries them along for export.
"""

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

from owl.config.run import ModelConfig, VisionParallelism
from owl.model.specs import tile_layer
from owl.model.tile_sharding import gather_tiles, tile_shares


class TileTower(MegatronModule):
    """Tiles to patch features.

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
        tower = model.vision_tower
        self.patch_embedding = PatchEmbedding(
            3, tower.hidden_size, tower.patch_size, stride=tower.patch_size,
            dtype=config.params_dtype,
        )  # fmt: skip
        self.position_embedding = nn.Parameter(
            torch.empty(tower.patches_per_tile, tower.hidden_size, dtype=config.params_dtype)
        )
        config.init_method(self.patch_embedding.weight)
        assert self.patch_embedding.bias is not None
        nn.init.zeros_(self.patch_embedding.bias)
        config.init_method(self.position_embedding)
        self.encoder = TransformerBlock(
            config=config,
            spec=TransformerBlockSubmodules(layer_specs=[tile_layer(model)] * config.num_layers),
            post_layer_norm=False,
            pg_collection=pg_collection,
        )
        if self.tile_group is not None:
            for parameter in self.parameters():
                # A copy, whatever its layer thinks; this rank's tiles give part of its gradient.
                parameter.tensor_model_parallel = False
                parameter.partial_over_tensor_group = True

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode tiles.

        Args:
            pixel_values: [m, 3, s, s]; uint8 is normalised here, float is taken as it is.

        Returns:
            [m, p, h_v] features: the output of the last layer but one of the published tower.
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
        patches = self.patch_embedding(self.normalise(pixel_values))
        hidden_states = (patches + self.position_embedding).transpose(0, 1).contiguous()
        if torch.is_grad_enabled() and not hidden_states.requires_grad:
            # Recomputed layers learn only where their input has a gradient: adapters are in them.
            hidden_states.requires_grad_()
        features = self.encoder(hidden_states, attention_mask=None)
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
        """Map bytes to the dtype of the tower with mean 0.5 and deviation 0.5 per channel."""
        dtype = self.position_embedding.dtype
        if pixel_values.dtype != torch.uint8:
            return pixel_values.to(dtype)
        wide = torch.promote_types(dtype, torch.float32)
        return ((pixel_values.to(wide) / 255 - 0.5) / 0.5).to(dtype)


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
