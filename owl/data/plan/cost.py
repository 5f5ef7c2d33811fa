# SPDX-License-Identifier: Apache-2.0
"""How much work a tile is, counted in text tokens: what packs are dealt to ranks by.

The model is cost = text tokens + w x tiles, with w from the multiplications of the weights alone.
What it leaves out: attention between tokens (short beside the weights at training lengths) and
between text and patches (grows with tokens x tiles, but runs in four layers only).

    per patch, forward   tower layers that are run, projector, key-value projections of hyper layers
    per token, forward   decoder layers, and the head for every token
    backward             as much again for the gradient of the input, and again for the weights

A frozen tower has no backward pass at all; a frozen decoder still hands gradients down to the
projector. That gives 26 / 17 for 7B in stage 1 / 2, and 107 / 72 for 2B.
"""

from owl.config.run import ModelConfig, Trainable

FORWARD, FORWARD_AND_INPUTS, ALL = 1, 2, 3
"""Passes, each as many multiplications as the forward pass."""


def tile_cost(model: ModelConfig, trainable: Trainable) -> float:
    """Text tokens that weigh as much as one tile.

    Args:
        model: its sizes.
        trainable: which parts learn.
    """
    tower = ALL if trainable.vision_tower else FORWARD
    decoder = ALL if trainable.language_model else FORWARD_AND_INPUTS
    patch = tower * _tower_weights(model) + ALL * _media_weights(model)
    return model.vision_tower.patches_per_tile * patch / (decoder * _decoder_weights(model))


def _tower_weights(model: ModelConfig) -> int:
    """Weights that each patch meets in the tower, and its attention: every patch to every other."""
    tower = model.vision_tower
    layer = 4 * tower.hidden_size**2 + 2 * tower.hidden_size * tower.ffn_hidden_size
    attention = 2 * tower.patches_per_tile * tower.hidden_size
    return (tower.num_layers - 1) * (layer + attention)


def _media_weights(model: ModelConfig) -> int:
    """Weights that each patch meets between tower and decoder layers, were the projector linear."""
    keys_and_values = 2 * model.hidden_size * model.num_kv_heads * model.head_dim
    projector = model.vision_tower.hidden_size * model.hidden_size
    return projector + len(model.hyper_attention.layer_indices) * keys_and_values


def _decoder_weights(model: ModelConfig) -> int:
    """Weights that each token meets."""
    qkv = model.hidden_size * (model.num_attention_heads + 2 * model.num_kv_heads) * model.head_dim
    feed_forward = 3 * model.hidden_size * model.ffn_hidden_size
    layer = qkv + model.hidden_size**2 + feed_forward
    return model.num_layers * layer + model.vocab_size * model.hidden_size
