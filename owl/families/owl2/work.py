# SPDX-License-Identifier: Apache-2.0
"""How much mPLUG-Owl2 computes: operations of a micro-batch, and what a tile weighs."""

from owl.config.run import ModelConfig, Trainable
from owl.data.passes import MULTIPLY_ADD, passes, spliced_flops, spliced_tile_cost
from owl.data.samples import PackedBatch


def batch_flops(batch: PackedBatch, model: ModelConfig, trainable: Trainable) -> dict[str, int]:
    """Operations of each part; the media copy of keys and values is computed for every row."""
    both_ways = passes(learns=trainable.fusion, below=True)
    rows = batch.num_tokens * model.num_layers
    copies = both_ways * MULTIPLY_ADD * rows * _key_value_weights(model)
    return spliced_flops(batch, model, trainable) | {"media keys and values": copies}


def tile_cost(model: ModelConfig, trainable: Trainable) -> float:
    """Text tokens that are as much work as encoding one tile."""
    return spliced_tile_cost(model, trainable, media_weights=_key_value_weights(model))


def _key_value_weights(model: ModelConfig) -> int:
    return 2 * model.hidden_size * model.num_kv_heads * model.head_dim
