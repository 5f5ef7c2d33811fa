# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of the parts that families share.

One multiplication with its addition counts as two operations. Norms, activations, rotary embeddings
and recomputation are not counted.

    a layer of weights   forward, as much again for the gradient of its input where something below
                         it learns, and as much again for its own gradient where it learns
    attention            forward, and twice as much backward where anything it reads from learns
"""

from owl.config.run import ModelConfig, ProjectorKind, Trainable

COLOUR_CHANNELS = 3
MULTIPLY_ADD = 2
SCORES_AND_VALUES = 2
"""Attention multiplies each pair twice: query with key, score with value."""


def passes(*, learns: bool, below: bool) -> int:
    """Times that a layer's weights are multiplied: forward, for its gradient, for its input's."""
    return 1 + learns + below


def tower_flops(model: ModelConfig, trainable: Trainable) -> int:
    """Operations of one tile in the tower, forward and backward; its last layer is never run."""
    tower, learns = model.vision_tower, trainable.vision_tower
    patches, width = tower.patches_per_tile, tower.hidden_size
    embedding = patches * COLOUR_CHANNELS * tower.patch_size**2 * width
    weights = patches * (4 * width**2 + 2 * width * tower.ffn_hidden_size)
    attention = SCORES_AND_VALUES * patches**2 * width
    layers = (tower.num_layers - 1) * (weights + attention)
    both_ways = passes(learns=learns, below=learns)
    return MULTIPLY_ADD * (passes(learns=learns, below=False) * embedding + both_ways * layers)


def projector_flops(model: ModelConfig, trainable: Trainable) -> int:
    """Operations of one tile in the projector, forward and backward."""
    learns, below = trainable.projector, trainable.vision_tower
    width, patches = model.vision_tower.hidden_size, model.vision_tower.patches_per_tile
    first = passes(learns=learns, below=below)
    second = passes(learns=learns, below=learns or below)
    if model.projector == ProjectorKind.abstractor:
        # Its queries learn, so that everything above them has a backward pass in any case.
        return MULTIPLY_ADD * second * _abstractor(model)
    multiplied = first * width * model.hidden_size
    if model.projector == ProjectorKind.mlp:
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
