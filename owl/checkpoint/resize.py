# SPDX-License-Identifier: Apache-2.0
"""Start from a checkpoint whose vision tower was trained on pictures of another size.

Only the tower's position table has a shape that depends on the size: it is loaded as it was stored,
and resized.
"""

from collections.abc import Iterator
from typing import Any

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from torch import Tensor

from owl.config.run import ModelConfig, VisionTowerConfig
from owl.logging import logger
from owl.model.tower.position_table import resize_positions

_TABLE = "vision_tower.position_embedding"


def ask_as_stored(content: dict[str, Any], stored: VisionTowerConfig) -> None:
    """Ask for a position table in the size in which a checkpoint has it.

    Args:
        content: from weight_shards; changed in place.
        stored: the checkpoint's tower.
    """
    for shards, name in _tables(content):
        wanted = shards[name]
        shape = (*wanted.local_shape[:-2], stored.features_per_tile, wanted.local_shape[-1])
        if shape == wanted.local_shape:
            continue
        shards[name] = ShardedTensor.from_rank_offsets(
            wanted.key,
            torch.empty(shape, dtype=wanted.dtype, device=wanted.data.device),
            replica_id=wanted.replica_id,
        )


def resize_loaded(loaded: dict[str, Any], stored: ModelConfig, model: ModelConfig) -> None:
    """Resize a loaded position table for the model.

    Args:
        loaded: weights, in the place of what ask_as_stored has asked for; changed in place.
        stored: the checkpoint's model.
        model: that is filled.
    """
    tower = model.vision_tower
    for tensors, name in _tables(loaded):
        table: Tensor = tensors[name]
        tensors[name] = resize_positions(
            table, class_tokens=tower.class_tokens, side=tower.image_size // tower.patch_size
        )
        if tensors[name] is not table:
            logger.info(
                "position table of the vision tower resized bicubically from %d to %d pixels",
                stored.vision_tower.image_size,
                tower.image_size,
            )


def _tables(content: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    for part in content.values():
        yield from ((part, name) for name in list(part) if name.endswith(_TABLE))
