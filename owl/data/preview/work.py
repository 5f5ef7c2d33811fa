# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of one micro-batch, part by part, forward and backward.

Counted from what is really there: visible token-tile pairs, causal pairs of each sample, supervised
rows of the head. One multiplication with its addition counts as two operations. Recomputation is
not counted.
"""

from collections.abc import Mapping

from owl.config.run import ModelConfig, ProjectorKind, Trainable
from owl.data.samples import PackedBatch

LEARNED = 3
"""Forward, gradient of the input, gradient of the weights."""
PASSED_THROUGH = 2
"""Forward and gradient of the input: frozen, but something below it learns."""
FORWARD = 1

COLOUR_CHANNELS = 3


def batch_work(batch: PackedBatch, model: ModelConfig, trainable: Trainable) -> Mapping[str, float]:
    """Operations of each part, in the order in which data meets them.

    Args:
        batch: a micro-batch.
        model: its sizes.
        trainable: a frozen tower has no backward pass; a frozen decoder hands gradients down.
    """
    tower = LEARNED if trainable.vision_tower else FORWARD
    decoder = LEARNED if trainable.language_model else PASSED_THROUGH
    hyper_layers = len(model.hyper_attention.layer_indices)
    query_width = model.num_attention_heads * model.head_dim
    patches = batch.num_tiles * model.vision_tower.patches_per_tile
    pairs = visible_pairs(batch) * model.vision_tower.patches_per_tile
    causal = sum(length * (length + 1) // 2 for length in batch.seqlens)
    supervised = int((batch.loss_weights > 0).sum())
    return {
        "vision tower": tower * batch.num_tiles * _tile_work(model),
        "projector": LEARNED * 2 * patches * _projector_weights(model),
        "image keys and values": LEARNED * 2 * patches * hyper_layers * _media_weights(model),
        "decoder weights": decoder * 2 * batch.num_tokens * _decoder_weights(model),
        "attention to text": LEARNED * 4 * query_width * model.num_layers * causal,
        "attention to images": LEARNED * 4 * query_width * hyper_layers * pairs,
        "head": decoder * 2 * supervised * model.hidden_size * model.vocab_size,
    }


def visible_pairs(batch: PackedBatch) -> int:
    """Pairs of a token and a tile that it sees."""
    places = batch.media_position.tolist()
    ends = batch.cu_media.tolist()
    return sum(
        max(0, length - place)
        for sample, length in enumerate(batch.seqlens)
        for place in places[ends[sample] : ends[sample + 1]]
    )


def _tile_work(model: ModelConfig) -> int:
    """Forward operations of the tower for one tile; its last layer is never run."""
    tower = model.vision_tower
    patches, width = tower.patches_per_tile, tower.hidden_size
    embedding = 2 * patches * COLOUR_CHANNELS * tower.patch_size**2 * width
    weights = 4 * width**2 + 2 * width * tower.ffn_hidden_size
    layer = 2 * patches * weights + 4 * patches**2 * width
    return embedding + (tower.num_layers - 1) * layer


def _projector_weights(model: ModelConfig) -> int:
    first = model.vision_tower.hidden_size * model.hidden_size
    return first + (model.hidden_size**2 if model.projector == ProjectorKind.mlp else 0)


def _media_weights(model: ModelConfig) -> int:
    return 2 * model.hidden_size * model.num_kv_heads * model.head_dim


def _decoder_weights(model: ModelConfig) -> int:
    qkv = model.hidden_size * (model.num_attention_heads + 2 * model.num_kv_heads) * model.head_dim
    layer = qkv + model.hidden_size**2 + 3 * model.hidden_size * model.ffn_hidden_size
    return model.num_layers * layer
