# SPDX-License-Identifier: Apache-2.0
"""How much the toy family computes, roughly: its decoder alone."""

from collections.abc import Mapping

from owl.config.run import ModelConfig, Trainable
from owl.data.samples import PackedBatch


def batch_flops(batch: PackedBatch, model: ModelConfig, trainable: Trainable) -> Mapping[str, int]:
    """Operations of one micro-batch, forward and backward."""
    layer = 4 * model.hidden_size**2 + 3 * model.hidden_size * model.ffn_hidden_size
    return {"decoder": 6 * batch.num_tokens * model.num_layers * layer}


def tile_cost(model: ModelConfig, trainable: Trainable) -> float:
    """Text tokens that are as much work as one tile."""
    return 4.0
