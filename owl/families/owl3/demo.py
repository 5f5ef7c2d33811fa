# SPDX-License-Identifier: Apache-2.0
"""The embedded demo of mPLUG-Owl3: a tiny Qwen2 and a tiny SigLIP.

This module implements owl.demo.families.DemoFamily.
"""

from typing import Any

from torch import Tensor

from owl.config.run import ModelConfig
from owl.convert.start import InitOptions
from owl.data.shards.schema import CONTROL_LITERALS
from owl.demo.digits import normalise

SPECIAL = (*CONTROL_LITERALS, "<unk>")
TOKENS = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
MARKUP = "system user assistant image video"
TEMPLATES = ("v2",)
SHARDS = ("stage1", "stage2")


def language_model(model: ModelConfig) -> Any:
    """Make a Qwen2 with random weights."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=model.vocab_size,
            hidden_size=model.hidden_size,
            intermediate_size=model.ffn_hidden_size,
            num_hidden_layers=model.num_layers,
            num_attention_heads=model.num_attention_heads,
            num_key_value_heads=model.num_kv_heads,
            max_position_embeddings=model.max_position_embeddings,
            rope_theta=model.rope_theta,
            tie_word_embeddings=False,
            initializer_range=0.08,  # about 1/sqrt(128); with 0.02 it learns much more slowly
            bos_token_id=None,
            eos_token_id=SPECIAL.index("<|im_end|>"),
        )
    )


def vision_model(model: ModelConfig) -> Any:
    """Make a SigLIP vision model with random weights."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    tower = model.vision_tower
    return SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=tower.hidden_size,
            intermediate_size=tower.ffn_hidden_size,
            num_hidden_layers=tower.num_layers,
            num_attention_heads=tower.num_attention_heads,
            image_size=tower.image_size,
            patch_size=tower.patch_size,
        )
    )


def features(tower: Any, pictures: Tensor) -> Tensor:
    """Return hidden_states[-2], without the last norm.

    The last layer, the norm and the pooling head keep their random weights.
    """
    encoded = tower(pixel_values=normalise(pictures), output_hidden_states=True)
    hidden: Tensor = encoded.hidden_states[-2]
    return hidden


def init_options(model: ModelConfig) -> InitOptions:
    """A 240728 in the demo's size."""
    return InitOptions(
        variant="240728",
        layer_indices=model.hyper_attention.layer_indices,
        vocab_size=model.vocab_size,
        name=model.name,
    )
