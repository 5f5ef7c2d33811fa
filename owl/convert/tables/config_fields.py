# SPDX-License-Identifier: Apache-2.0
"""Fields of published config.json files that several model families share."""

from collections.abc import Iterator, Mapping
from typing import Any

from owl.config.run import (
    AbstractorConfig,
    ModelConfig,
    PictureFit,
    ProjectorKind,
    TowerKind,
    VisionTowerConfig,
)
from owl.errors import CheckpointError

_QWEN2_VOCABULARY = 151646  # ids of its tokenizer, control tokens included
_CONTROL_TOKENS = {"bos_token_id": 151643, "eos_token_id": 151645}


def read_decoder(config: Mapping[str, Any], *, rope_theta: float = 1e6) -> dict[str, Any]:
    """Read the sizes of a decoder, as Qwen2 and LLaMA write them: arguments of ModelConfig.

    Args:
        config: its fields.
        rope_theta: base of the rotary positions where none is named.
    """
    return {
        "hidden_size": config["hidden_size"],
        "ffn_hidden_size": config["intermediate_size"],
        "num_layers": config["num_hidden_layers"],
        "num_attention_heads": config["num_attention_heads"],
        "num_kv_heads": config["num_key_value_heads"],
        "vocab_size": config["vocab_size"],
        "rope_theta": _rope_theta(config, rope_theta),
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


def _rope_theta(config: Mapping[str, Any], default: float) -> float:
    """Read the rotary base; transformers 5 moved it below rope_parameters."""
    if "rope_theta" in config:
        return float(config["rope_theta"])
    parameters = config.get("rope_parameters") or {}
    return float(parameters.get("rope_theta", default))


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


# What mPLUG-Owl2 and mPLUG-Owl share: LLaMA, CLIP and the abstractor.

_LLAMA_VOCABULARY = 32000
_LLAMA_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "attention_dropout": (0.0, None),
    "rope_scaling": (None,),
}
_CLIP_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("quick_gelu",),
    "num_channels": (3,),
    "use_cls_token": (True,),
    "use_post_layernorm": (True,),
    "attention_dropout": (0.0, None),
}
_ABSTRACTOR_FIXED: dict[str, tuple[Any, ...]] = {
    "use_cls_token": (True,),
    "add_v2t_pos_emb": (False, None),
}
_FITS = {PictureFit.pad: "pad", PictureFit.stretch: "resize", PictureFit.crop: "crop"}
"""Values of image_aspect_ratio; the published code crops for any name but the other two."""


def read_llama(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read the sizes of a LLaMA; what early files leave out has LLaMA's defaults."""
    given = {name: value for name, value in config.items() if value is not None}
    heads = {"num_key_value_heads": config["num_attention_heads"], "max_position_embeddings": 2048}
    return read_decoder(heads | given, rope_theta=1e4)


def read_clip(config: Mapping[str, Any]) -> VisionTowerConfig:
    """Read the sizes of a CLIP tower as the two families write them."""
    sizes = {name: config[name] for name in CLIP_SIZES}
    tower = read_tower(sizes | {"layer_norm_eps": config.get("layer_norm_eps", 1e-6)})
    tower.kind = TowerKind.clip
    return tower


CLIP_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
)


def read_abstractor(
    config: Mapping[str, Any], *, queries: int, positions: bool
) -> AbstractorConfig:
    """Read the sizes of an abstractor.

    Args:
        config: its fields.
        queries: vectors that stand for a tile.
        positions: whether the family has position tables.
    """
    return AbstractorConfig(
        num_queries=queries,
        num_layers=config["num_hidden_layers"],
        num_attention_heads=config["num_attention_heads"],
        ffn_hidden_size=config["intermediate_size"],
        ffn_layer_norm_eps=config.get("layer_norm_eps", 1e-6),
        positions=positions,
        attention_dropout=config.get("attention_probs_dropout_prob", 0.0),
    )


def clip_llama_problems(
    language: Mapping[str, Any], vision: Mapping[str, Any], abstractor: Mapping[str, Any]
) -> Iterator[str]:
    """Report what config.json requests but nothing here computes.

    Args:
        language: fields of the LLaMA.
        vision: fields of the CLIP tower.
        abstractor: fields of the abstractor.
    """
    fixed = ((language, _LLAMA_FIXED), (vision, _CLIP_FIXED), (abstractor, _ABSTRACTOR_FIXED))
    for config, rules in fixed:
        for name, allowed in rules.items():
            value = config.get(name, allowed[0])
            if value not in allowed:
                yield f"{name}={value!r} must be {allowed[0]!r}: nothing else is computed"
    for name in ("hidden_size", "encoder_hidden_size"):
        width = abstractor.get(name, vision["hidden_size"])
        if width != vision["hidden_size"]:
            yield f"the abstractor's {name}={width} must be the tower's {vision['hidden_size']}"
    side = vision["image_size"] // vision["patch_size"]
    if (grid := abstractor.get("grid_size") or side) != side:
        yield f"grid_size={grid} must be image_size // patch_size = {side}"


def raise_problems(problems: list[str]) -> None:
    """Raise CheckpointError that lists problems of a config.json, if there are any."""
    if problems:
        raise CheckpointError(
            f"config.json describes an invalid model: {'; '.join(problems)}. Use the file that was "
            "published with the weights."
        )


def check_clip_llama(model: ModelConfig) -> None:
    """Raise CheckpointError for a model that the two families' published form cannot hold."""
    if model.vision_tower.kind is not TowerKind.clip:
        raise CheckpointError(
            f"model.vision_tower.kind={model.vision_tower.kind} cannot be exported: the published "
            f"form of {model.family} has a clip tower."
        )
    if model.projector is not ProjectorKind.abstractor:
        raise CheckpointError(
            f"model.projector={model.projector} cannot be exported: the published form of "
            f"{model.family} has an abstractor."
        )


def llama_fields(model: ModelConfig, dtype: str) -> dict[str, Any]:
    """Return the fields of LLaMA's config."""
    control = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return {
        "attention_bias": False,
        **(control if model.vocab_size == _LLAMA_VOCABULARY else {}),
        "hidden_act": "silu",
        "hidden_size": model.hidden_size,
        "initializer_range": model.init_std,
        "intermediate_size": model.ffn_hidden_size,
        "max_position_embeddings": model.max_position_embeddings,
        "num_attention_heads": model.num_attention_heads,
        "num_hidden_layers": model.num_layers,
        "num_key_value_heads": model.num_kv_heads,
        "rms_norm_eps": model.rms_norm_eps,
        "rope_scaling": None,
        "rope_theta": model.rope_theta,
        "tie_word_embeddings": model.tie_word_embeddings,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": model.vocab_size,
    }


def clip_fields(model: ModelConfig) -> dict[str, Any]:
    """Return the fields of the CLIP tower's config."""
    return {
        **vision_fields(model),
        "attention_dropout": 0.0,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": model.vision_tower.layer_norm_eps,
        "num_channels": 3,
    }


def abstractor_fields(model: ModelConfig) -> dict[str, Any]:
    """Return the fields of the abstractor's config, without its number of queries."""
    sizes, width = model.abstractor, model.vision_tower.hidden_size
    return {
        "attention_probs_dropout_prob": sizes.attention_dropout,
        "encoder_hidden_size": width,
        "hidden_size": width,
        "intermediate_size": sizes.ffn_hidden_size,
        "layer_norm_eps": sizes.ffn_layer_norm_eps,
        "num_attention_heads": sizes.num_attention_heads,
        "num_hidden_layers": sizes.num_layers,
    }


def read_fit(config: Mapping[str, Any], default: PictureFit) -> PictureFit:
    """Read how a picture becomes square from image_aspect_ratio."""
    if "image_aspect_ratio" not in config:
        return default
    names = {name: fit for fit, name in _FITS.items()}
    return names.get(config["image_aspect_ratio"], PictureFit.crop)


def fit_field(fit: PictureFit) -> dict[str, str]:
    """Return the field that read_fit reads."""
    return {"image_aspect_ratio": _FITS[fit]}
