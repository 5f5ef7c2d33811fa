# SPDX-License-Identifier: Apache-2.0
"""Fields of published config.json files that several model families share."""

from collections.abc import Mapping
from typing import Any

from owl.config.run import ModelConfig, VisionTowerConfig

_QWEN2_VOCABULARY = 151646  # ids of its tokenizer, control tokens included
_CONTROL_TOKENS = {"bos_token_id": 151643, "eos_token_id": 151645}


def read_decoder(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read the sizes of a decoder, as Qwen2 and LLaMA write them: arguments of ModelConfig."""
    return {
        "hidden_size": config["hidden_size"],
        "ffn_hidden_size": config["intermediate_size"],
        "num_layers": config["num_hidden_layers"],
        "num_attention_heads": config["num_attention_heads"],
        "num_kv_heads": config["num_key_value_heads"],
        "vocab_size": config["vocab_size"],
        "rope_theta": _rope_theta(config),
        "rms_norm_eps": config.get("rms_norm_eps", 1e-6),
        "max_position_embeddings": config.get("max_position_embeddings", 32768),
        "tie_word_embeddings": config.get("tie_word_embeddings", False),
    }


def read_tower(config: Mapping[str, Any]) -> VisionTowerConfig:
    """Read the sizes of a vision tower, as SigLIP writes them; missing ones have defaults."""
    default = VisionTowerConfig()
    return VisionTowerConfig(
        hidden_size=config.get("hidden_size", default.hidden_size),
        ffn_hidden_size=config.get("intermediate_size", default.ffn_hidden_size),
        num_layers=config.get("num_hidden_layers", default.num_layers),
        num_attention_heads=config.get("num_attention_heads", default.num_attention_heads),
        image_size=config.get("image_size", default.image_size),
        patch_size=config.get("patch_size", default.patch_size),
        layer_norm_eps=config.get("layer_norm_eps", default.layer_norm_eps),
    )


def _rope_theta(config: Mapping[str, Any]) -> float:
    """Read the rotary base; transformers 5 moved it below rope_parameters."""
    if "rope_theta" in config:
        return float(config["rope_theta"])
    parameters = config.get("rope_parameters") or {}
    return float(parameters.get("rope_theta", 1e6))


def qwen2_config(model: ModelConfig, dtype: str) -> dict[str, Any]:
    """Write the config.json of the language model alone, for transformers' Qwen2ForCausalLM."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        **language_fields(model, dtype),
    }


def siglip_config(model: ModelConfig, dtype: str, *, head: bool) -> dict[str, Any]:
    """Write the config.json of the vision model alone, for transformers' SiglipVisionModel.

    Args:
        model: the architecture.
        dtype: of the weights: "bfloat16".
        head: whether the weights include the pooling head.
    """
    return {
        "architectures": ["SiglipVisionModel"],
        "model_type": "siglip_vision_model",
        **vision_fields(model),
        "attention_dropout": 0.0,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": model.vision_tower.layer_norm_eps,
        "num_channels": 3,
        "torch_dtype": dtype,
        "vision_use_head": head,
    }


def language_fields(model: ModelConfig, dtype: str) -> dict[str, Any]:
    """Return the fields of Qwen2's config."""
    # The ids of another tokenizer's control tokens are not known here: --base provides them.
    control = _CONTROL_TOKENS if model.vocab_size >= _QWEN2_VOCABULARY else {}
    return {
        "attention_dropout": 0.0,
        **control,
        "hidden_act": "silu",
        "hidden_size": model.hidden_size,
        "initializer_range": model.init_std,
        "intermediate_size": model.ffn_hidden_size,
        "max_position_embeddings": model.max_position_embeddings,
        "max_window_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_hidden_layers": model.num_layers,
        "num_key_value_heads": model.num_kv_heads,
        "rms_norm_eps": model.rms_norm_eps,
        "rope_theta": model.rope_theta,
        "sliding_window": model.max_position_embeddings,
        "tie_word_embeddings": model.tie_word_embeddings,
        "torch_dtype": dtype,
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": model.vocab_size,
    }


def vision_fields(model: ModelConfig) -> dict[str, Any]:
    """Return the sizes of the vision tower, as SigLIP's config names them."""
    tower = model.vision_tower
    return {
        "hidden_size": tower.hidden_size,
        "image_size": tower.image_size,
        "intermediate_size": tower.ffn_hidden_size,
        "num_attention_heads": tower.num_attention_heads,
        "num_hidden_layers": tower.num_layers,
        "patch_size": tower.patch_size,
    }
