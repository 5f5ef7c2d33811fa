# SPDX-License-Identifier: Apache-2.0
"""How much mPLUG-Owl3 computes: operations of a micro-batch, and what a tile weighs.

Operations are counted from what is really there: visible token-tile pairs, causal pairs of each
sample, supervised rows of the head, layers that are run. See owl.data.passes for how.
"""

from collections.abc import Mapping

from owl.config.run import ModelConfig, Trainable
from owl.data.passes import (
    MULTIPLY_ADD,
    SCORES_AND_VALUES,
    head_flops,
    other_weights,
    passes,
    projector_flops,
    qkv_weights,
    tower_flops,
)
from owl.data.samples import PackedBatch
from owl.families.owl3.config import FusionKind


def batch_flops(batch: PackedBatch, model: ModelConfig, trainable: Trainable) -> Mapping[str, int]:
    """Operations of each part, in the order in which data meets them.

    Args:
        batch: a micro-batch.
        model: its sizes.
        trainable: which parts learn. A frozen tower has no backward pass; a frozen decoder hands
            gradients down to its first hyper layer, and no further.
    """
    keys = batch.num_tiles * model.keys_per_tile
    causal = sum(length * (length + 1) // 2 for length in batch.seqlens)
    supervised = int((batch.loss_weights > 0).sum())
    hyper = len(model.hyper_attention.layer_indices)
    features_learn = trainable.vision_tower or trainable.projector
    media = passes(learns=trainable.fusion, below=features_learn)
    pair = MULTIPLY_ADD * SCORES_AND_VALUES * model.num_attention_heads * model.head_dim
    seen = visible_pairs(batch, model.enters.position_shift)
    return {
        "vision tower": batch.num_tiles * tower_flops(model, trainable),
        "projector": batch.num_tiles * projector_flops(model, trainable),
        "image keys and values": media * MULTIPLY_ADD * keys * hyper * _key_value_weights(model),
        "decoder weights": MULTIPLY_ADD * batch.num_tokens * _decoder(model, trainable),
        "attention to text": pair * causal * _self_attentions(model, trainable),
        "gate": MULTIPLY_ADD * batch.num_tokens * _gates(model, trainable),
        "attention to images": 3 * pair * hyper * seen * model.keys_per_tile,
        "head": head_flops(model, trainable, supervised),
    }


def visible_pairs(batch: PackedBatch, position_shift: int) -> int:
    """Count pairs of a token and a tile that it sees, from the tile's offset plus the shift on."""
    return sum(
        max(0, length - offset - position_shift)
        for length, offsets in zip(batch.seqlens, batch.media_offset, strict=True)
        for offset in offsets
    )


def _decoder(model: ModelConfig, trainable: Trainable) -> int:
    """Multiplications of one token with the decoder's weights, forward and backward."""
    qkv, others = qkv_weights(model), other_weights(model)
    if trainable.language_model:
        return 3 * model.num_layers * (qkv + others)
    above = _layers_above_the_first_hyper_layer(model)
    # What the first hyper layer reads of the text does not learn; what it adds images to does.
    return (model.num_layers + above) * qkv + (model.num_layers + above + 1) * others


def _gates(model: ModelConfig, trainable: Trainable) -> int:
    """Multiplications of one token with the gates of the hyper layers, forward and backward."""
    if model.hyper_attention.fusion is not FusionKind.token_gate:
        return 0  # one vector, or none
    layers = len(model.hyper_attention.layer_indices)
    both_ways = layers * passes(learns=trainable.fusion, below=True)
    if not trainable.language_model:
        both_ways -= 1  # the first one's text has nothing below it that learns
    return both_ways * model.num_attention_heads * model.head_dim**2


def _self_attentions(model: ModelConfig, trainable: Trainable) -> int:
    """Attention of text to text: layers, each counted three times where gradients pass."""
    if trainable.language_model:
        return 3 * model.num_layers
    return model.num_layers + 2 * _layers_above_the_first_hyper_layer(model)


def _layers_above_the_first_hyper_layer(model: ModelConfig) -> int:
    return model.num_layers - 1 - min(model.hyper_attention.layer_indices)


def _key_value_weights(model: ModelConfig) -> int:
    return 2 * model.hidden_size * model.num_kv_heads * model.head_dim


# What a tile weighs.

FORWARD, FORWARD_AND_INPUTS, ALL = 1, 2, 3
"""Passes, each as many multiplications as the forward pass."""


def tile_cost(model: ModelConfig, trainable: Trainable) -> float:
    """Text tokens that are as much work as one tile: by this, packs are shared among ranks.

    From the multiplications of the weights alone. Left out: attention between tokens (small beside
    the weights at training lengths) and between text and patches (grows with tokens x tiles, but
    runs in four layers only).

        per patch, forward   tower layers that are run, projector, key-value projections of hyper
                             layers
        per token, forward   decoder layers, and the head for every token
        backward             as much again for the gradient of the input, and again for the weights

    A frozen tower has no backward pass at all; a frozen decoder still hands gradients down to the
    projector. That gives 26 / 17 for 7B in stage 1 / 2, and 107 / 72 for 2B.

    Args:
        model: its sizes.
        trainable: which parts learn.
    """
    tower = ALL if trainable.vision_tower else FORWARD
    decoder = ALL if trainable.language_model else FORWARD_AND_INPUTS
    patch = tower * _tower_weights(model) + ALL * _media_weights(model)
    token = model.num_layers * (qkv_weights(model) + other_weights(model))
    token += model.vocab_size * model.hidden_size
    return model.vision_tower.patches_per_tile * patch / (decoder * token)


def _tower_weights(model: ModelConfig) -> int:
    """Weights that each patch meets in the tower, and its attention: every patch to every other."""
    tower = model.vision_tower
    layer = 4 * tower.hidden_size**2 + 2 * tower.hidden_size * tower.ffn_hidden_size
    attention = SCORES_AND_VALUES * tower.patches_per_tile * tower.hidden_size
    return tower.layers_run * (layer + attention)


def _media_weights(model: ModelConfig) -> int:
    """Weights that each patch meets between tower and decoder layers, were the projector linear."""
    projector = model.vision_tower.hidden_size * model.hidden_size
    return projector + len(model.hyper_attention.layer_indices) * _key_value_weights(model)
