# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of the parts that families share.

One multiplication with its addition counts as two operations. Norms, activations, rotary embeddings
and recomputation are not counted.

    a layer of weights   forward, as much again for the gradient of its input where something below
                         it learns, and as much again for its own gradient where it learns
    attention            forward, and twice as much backward where anything it reads from learns
"""

from owl.config.run import ModelConfig, ProjectorKind, Trainable
from owl.data.samples import PackedBatch

COLOUR_CHANNELS = 3
MULTIPLY_ADD = 2
SCORES_AND_VALUES = 2
"""Attention multiplies each pair twice: query with key, score with value."""


def passes(*, learns: bool, below: bool) -> int:
    """Times that a layer's weights are multiplied: forward, for its gradient, for its input's."""
    return 1 + learns + below


def tower_flops(model: ModelConfig, trainable: Trainable) -> int:
    """Operations of one tile in the tower, forward and backward, in the layers that are run."""
    tower, learns = model.vision_tower, trainable.vision_tower
    features, width = tower.features_per_tile, tower.hidden_size
    embedding = tower.patches_per_tile * COLOUR_CHANNELS * tower.patch_size**2 * width
    weights = features * (4 * width**2 + 2 * width * tower.ffn_hidden_size)
    attention = SCORES_AND_VALUES * features**2 * width
    layers = tower.layers_run * (weights + attention)
    both_ways = passes(learns=learns, below=learns)
    return MULTIPLY_ADD * (passes(learns=learns, below=False) * embedding + both_ways * layers)


def projector_flops(model: ModelConfig, trainable: Trainable) -> int:
    """Operations of one tile in the projector, forward and backward."""
    learns, below = trainable.projector, trainable.vision_tower
    width, features = model.vision_tower.hidden_size, model.vision_tower.features_per_tile
    first = passes(learns=learns, below=below)
    second = passes(learns=learns, below=learns or below)
    if model.projector == ProjectorKind.abstractor:
        # Its queries learn, so that everything above them has a backward pass in any case.
        return MULTIPLY_ADD * second * _abstractor(model)
    multiplied = first * width * model.hidden_size
    if model.projector == ProjectorKind.mlp:
        multiplied += second * model.hidden_size**2
    return MULTIPLY_ADD * features * multiplied


def _abstractor(model: ModelConfig) -> int:
    """Multiplications of one tile in the visual abstractor, forward."""
    sizes, width = model.abstractor, model.vision_tower.hidden_size
    queries = sizes.num_queries
    seen = queries + model.vision_tower.features_per_tile
    weights = queries * 2 * width**2 + seen * 2 * width**2  # query and output; key and value
    attention = SCORES_AND_VALUES * queries * seen * width
    feed_forward = queries * 3 * width * sizes.ffn_hidden_size
    layers = sizes.num_layers * (weights + attention + feed_forward)
    return layers + queries * width * model.hidden_size


def qkv_weights(model: ModelConfig) -> int:
    """Weights of a decoder layer's query, key and value projection."""
    heads = model.num_attention_heads + 2 * model.num_kv_heads
    return model.hidden_size * heads * model.head_dim


def other_weights(model: ModelConfig) -> int:
    """Weights of a decoder layer's output projection and gated MLP."""
    return model.hidden_size**2 + 3 * model.hidden_size * model.ffn_hidden_size


def head_flops(model: ModelConfig, trainable: Trainable, supervised: int) -> int:
    """Operations of the LM head, which sees only the supervised tokens, forward and backward."""
    both_ways = passes(learns=trainable.language_model, below=True)
    return both_ways * MULTIPLY_ADD * supervised * model.hidden_size * model.vocab_size


# Where tiles are spliced into the text, each of their vectors is a row of the decoder.


def spliced_flops(batch: PackedBatch, model: ModelConfig, trainable: Trainable) -> dict[str, int]:
    """Operations of each part of a model with spliced tiles, in the order in which data meets them.

    Args:
        batch: a micro-batch.
        model: its sizes.
        trainable: which parts learn. A frozen decoder hands gradients down through every layer.
    """
    supervised = int((batch.loss_weights > 0).sum())
    causal = sum(length * (length + 1) // 2 for length in batch.seqlens)
    pair = MULTIPLY_ADD * SCORES_AND_VALUES * model.num_attention_heads * model.head_dim
    layers = model.num_layers * (qkv_weights(model) + other_weights(model))
    both_ways = passes(learns=trainable.language_model, below=True)
    return {
        "vision tower": batch.num_tiles * tower_flops(model, trainable),
        "projector": batch.num_tiles * projector_flops(model, trainable),
        "decoder weights": both_ways * MULTIPLY_ADD * batch.num_tokens * layers,
        "attention": 3 * pair * causal * model.num_layers,
        "head": head_flops(model, trainable, supervised),
    }


def spliced_tile_cost(model: ModelConfig, trainable: Trainable, *, media_weights: int = 0) -> float:
    """Text tokens that are as much work as encoding one tile; packs are shared among ranks by it.

    The rows that a tile takes are counted as tokens already. Attention in the decoder is left out:
    it is small beside the weights at training lengths.

    Args:
        model: its sizes.
        trainable: which parts learn.
        media_weights: of each layer, that every row meets besides those of a LLaMA.
    """
    tile = tower_flops(model, trainable) + projector_flops(model, trainable)
    layer = qkv_weights(model) + other_weights(model) + media_weights
    token = model.num_layers * layer + model.vocab_size * model.hidden_size
    both_ways = passes(learns=trainable.language_model, below=True)
    return tile / (both_ways * MULTIPLY_ADD * token)
