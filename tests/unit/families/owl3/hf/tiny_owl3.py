# SPDX-License-Identifier: Apache-2.0
"""A config small enough for a test: four layers, 28-pixel tiles of four patches, 259 tokens."""

from owl.hf import Owl3Config


def tiny_config(fusion: str = "joint_softmax", **changes) -> Owl3Config:
    joint = fusion == "joint_softmax"
    settings = {
        "vocab_size": 259,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hyper_layers": [2, 4],
        "fusion": fusion,
        "projector": "mlp" if joint else "linear",
        "media_position_shift": 0 if joint else 1,
        "template": "v2" if fusion == "token_gate" else "v3",
        "tie_word_embeddings": fusion == "static_gate",
        "vision_batch_size": 3,  # less than a batch's tiles
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
    }
    return Owl3Config(**(settings | changes))
