# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of one micro-batch, part by part, forward and backward.

Counted from what is really there: visible token-tile pairs, causal pairs of each sample, supervised
rows of the head, layers that are run. One multiplication with its addition counts as two
operations. Norms, activations, rotary embeddings and recomputation are not counted.

    a layer of weights   forward, as much again for the gradient of its input where something below
                         it learns, and as much again for its own gradient where it learns
    attention            forward, and twice as much backward where anything it reads from learns
"""

from collections.abc import Mapping

from owl.config.run import ModelConfig, ProjectorKind, Trainable
from owl.data.samples import PackedBatch
from owl.families.owl3.config import FusionKind

COLOUR_CHANNELS = 3
MULTIPLY_ADD = 2
SCORES_AND_VALUES = 2
"""Attention multiplies each pair twice: query with key, score with value."""


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
    media = _passes(learns=trainable.fusion, below=features_learn)
    head = _passes(learns=trainable.language_model, below=True)
    pair = MULTIPLY_ADD * SCORES_AND_VALUES * model.num_attention_heads * model.head_dim
    seen = visible_pairs(batch, model.enters.position_shift)
    return {
        "vision tower": batch.num_tiles * _tower(model, trainable),
        "projector": batch.num_tiles * _projector(model, trainable),
        "image keys and values": media * MULTIPLY_ADD * keys * hyper * _key_value_weights(model),
        "decoder weights": MULTIPLY_ADD * batch.num_tokens * _decoder(model, trainable),
        "attention to text": pair * causal * _self_attentions(model, trainable),
        "gate": MULTIPLY_ADD * batch.num_tokens * _gates(model, trainable),
        "attention to images": 3 * pair * hyper * seen * model.keys_per_tile,
        "head": head * MULTIPLY_ADD * supervised * model.hidden_size * model.vocab_size,
    }


def visible_pairs(batch: PackedBatch, position_shift: int) -> int:
    """Count pairs of a token and a tile that it sees, from the tile's offset plus the shift on."""
    return sum(
        max(0, length - offset - position_shift)
        for length, offsets in zip(batch.seqlens, batch.media_offset, strict=True)
        for offset in offsets
    )


def _passes(*, learns: bool, below: bool) -> int:
    """Times that a layer's weights are multiplied: forward, for its gradient, for its input's."""
    return 1 + learns + below


def _tower(model: ModelConfig, trainable: Trainable) -> int:
    """One tile through the tower, both ways; its last layer is never run."""
    tower, learns = model.vision_tower, trainable.vision_tower
    patches, width = tower.patches_per_tile, tower.hidden_size
    embedding = patches * COLOUR_CHANNELS * tower.patch_size**2 * width
    weights = patches * (4 * width**2 + 2 * width * tower.ffn_hidden_size)
    attention = SCORES_AND_VALUES * patches**2 * width
    layers = (tower.num_layers - 1) * (weights + attention)
    passes = _passes(learns=learns, below=learns)
    return MULTIPLY_ADD * (_passes(learns=learns, below=False) * embedding + passes * layers)


def _projector(model: ModelConfig, trainable: Trainable) -> int:
    """One tile through the projector, both ways."""
    learns, below = trainable.projector, trainable.vision_tower
    width, patches = model.vision_tower.hidden_size, model.vision_tower.patches_per_tile
    first = _passes(learns=learns, below=below)
    if model.projector == ProjectorKind.abstractor:
        # Its queries learn, so that everything above them has a backward pass in any case.
        return MULTIPLY_ADD * _passes(learns=learns, below=learns or below) * _abstractor(model)
    multiplied = first * width * model.hidden_size
    if model.projector == ProjectorKind.mlp:
        second = _passes(learns=learns, below=learns or below)
        multiplied += second * model.hidden_size**2
    return MULTIPLY_ADD * patches * multiplied


def _abstractor(model: ModelConfig) -> int:
    """Multiplications of one tile in the visual abstractor, forward."""
    sizes, width = model.abstractor, model.vision_tower.hidden_size
    queries = sizes.num_queries
    seen = queries + model.vision_tower.patches_per_tile
    weights = queries * 2 * width**2 + seen * 2 * width**2  # query and output; key and value
    attention = SCORES_AND_VALUES * queries * seen * width
    feed_forward = queries * 3 * width * sizes.ffn_hidden_size
    layers = sizes.num_layers * (weights + attention + feed_forward)
    return layers + queries * width * model.hidden_size


def _decoder(model: ModelConfig, trainable: Trainable) -> int:
    """Multiplications of one token with the decoder's weights, both ways."""
    qkv = model.hidden_size * (model.num_attention_heads + 2 * model.num_kv_heads) * model.head_dim
    others = model.hidden_size**2 + 3 * model.hidden_size * model.ffn_hidden_size
    if trainable.language_model:
        return 3 * model.num_layers * (qkv + others)
    above = _layers_above_the_first_hyper_layer(model)
    # What the first hyper layer reads of the text does not learn; what it adds images to does.
    return (model.num_layers + above) * qkv + (model.num_layers + above + 1) * others


def _gates(model: ModelConfig, trainable: Trainable) -> int:
    """Multiplications of one token with the gates of the hyper layers, both ways."""
    if model.hyper_attention.fusion is not FusionKind.token_gate:
        return 0  # one vector, or none
    layers = len(model.hyper_attention.layer_indices)
    passes = layers * _passes(learns=trainable.fusion, below=True)
    if not trainable.language_model:
        passes -= 1  # the first one's text has nothing below it that learns
    return passes * model.num_attention_heads * model.head_dim**2


def _self_attentions(model: ModelConfig, trainable: Trainable) -> int:
    """Attention of text to text: layers, each counted three times where gradients pass."""
    if trainable.language_model:
        return 3 * model.num_layers
    return model.num_layers + 2 * _layers_above_the_first_hyper_layer(model)


def _layers_above_the_first_hyper_layer(model: ModelConfig) -> int:
    return model.num_layers - 1 - min(model.hyper_attention.layer_indices)


def _key_value_weights(model: ModelConfig) -> int:
    return 2 * model.hidden_size * model.num_kv_heads * model.head_dim
