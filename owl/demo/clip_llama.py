# SPDX-License-Identifier: Apache-2.0
"""The tiny LLaMA and CLIP of the demos of two families."""

from typing import Any

import torch
from torch import Tensor

from owl.config.run import ModelConfig, TowerKind, VisionTowerConfig

SPECIAL = ("<unk>", "<s>", "</s>")
"""LLaMA's first tokens, by id."""
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}
SHARDS = ("stage1", "stage2", "text")


def language_model(model: ModelConfig) -> Any:
    """Make a LLaMA with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=model.vocab_size,
            hidden_size=model.hidden_size,
            intermediate_size=model.ffn_hidden_size,
            num_hidden_layers=model.num_layers,
            num_attention_heads=model.num_attention_heads,
            num_key_value_heads=model.num_kv_heads,
            max_position_embeddings=model.max_position_embeddings,
            rms_norm_eps=model.rms_norm_eps,
            tie_word_embeddings=False,
            initializer_range=0.08,  # about 1/sqrt(128); with 0.02 it learns much more slowly
            bos_token_id=SPECIAL.index("<s>"),
            eos_token_id=SPECIAL.index("</s>"),
        )
    )


def vision_model(model: ModelConfig) -> Any:
    """Make a CLIP vision model with random weights."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    tower = model.vision_tower
    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=tower.hidden_size,
            intermediate_size=tower.ffn_hidden_size,
            num_hidden_layers=tower.num_layers,
            num_attention_heads=tower.num_attention_heads,
            image_size=tower.image_size,
            patch_size=tower.patch_size,
            layer_norm_eps=tower.layer_norm_eps,
        )
    )


def features(tower: Any, pictures: Tensor) -> Tensor:
    """Encode grey pictures [n, s, s] as the abstractor will read them: all features, normed."""
    clip = VisionTowerConfig(kind=TowerKind.clip)
    mean, deviation = (
        torch.tensor(colours)[:, None, None] for colours in (clip.pixel_mean, clip.pixel_deviation)
    )
    pixels = ((pictures.float() / 255)[:, None] - mean) / deviation
    vision = getattr(tower, "vision_model", tower)  # versions of transformers differ
    encoded: Tensor = vision.post_layernorm(tower(pixel_values=pixels).last_hidden_state)
    return encoded
