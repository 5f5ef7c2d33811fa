# SPDX-License-Identifier: Apache-2.0
"""A published config.json to ModelConfig and back.

The three variants share their config keys: what tells them apart are the tensor names.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from owl.config.run import ModelConfig, ProjectorKind, VisionTowerConfig
from owl.errors import CheckpointError
from owl.families.owl3.config import FusionKind, HyperAttentionConfig
from owl.families.owl3.limits_owl3 import SIZES, config_problems

# variant: fusion, projector, media position shift, template
VARIANTS: dict[str, tuple[FusionKind, ProjectorKind, int, str]] = {
    "240728": (FusionKind.token_gate, ProjectorKind.linear, 1, "v2"),
    "241014": (FusionKind.static_gate, ProjectorKind.linear, 1, "v3"),
    "241101": (FusionKind.joint_softmax, ProjectorKind.mlp, 0, "v3"),
}
MODEL_TYPE = "mplugowl3"
_NEEDED = (*SIZES, "hyper_layers", "vision_config")
_QWEN2_VOCABULARY = 151646  # ids of its tokenizer, control tokens included


def variant_of(tensor_names: Collection[str]) -> str:
    """Tell which of the three published variants a checkpoint is, by its tensor names."""
    if any(".self_attn.gate_proj.0." in name for name in tensor_names):
        return "240728"
    if any(name.endswith(".self_attn.gate") for name in tensor_names):
        return "241014"
    if any(".self_attn.v_kv_proj." in name for name in tensor_names):
        return "241101"
    raise CheckpointError(
        "no tensor is named *.self_attn.v_kv_proj.*: this is not an mPLUG-Owl3 checkpoint. To "
        "start from a plain Qwen2 and SigLIP, run python -m owl.convert init."
    )


def owl3_config(hf: Mapping[str, Any], tensor_names: Collection[str], name: str) -> ModelConfig:
    """Read a published Owl3 config.json.

    Args:
        hf: the parsed file.
        tensor_names: of its weights, which tell the variant.
        name: what to call the model.
    """
    kind = hf.get("model_type", MODEL_TYPE)  # early folders do not say
    if kind != MODEL_TYPE:
        raise CheckpointError(
            f"config.json says model_type {kind!r}, not {MODEL_TYPE!r}: this is not an mPLUG-Owl3 "
            f"checkpoint. To start from a plain Qwen2 and SigLIP, run python -m owl.convert init."
        )
    missing = [field for field in _NEEDED if field not in hf]
    if missing:
        raise CheckpointError(
            f"config.json lacks {', '.join(missing)}. Take the file that was published with the "
            f"weights; hyper_layers lists, counted from 1, the decoder layers that see images."
        )
    check_computed(hf, hf["vision_config"])
    layers = [index - 1 for index in hf["hyper_layers"]]  # published indices count from 1
    model = build_config(hf, hf["vision_config"], variant_of(tensor_names), layers, name)
    model = _with_choices(model, hf)
    problems = list(model.problems())
    if problems:
        raise CheckpointError("config.json cannot work: " + "; ".join(problems))
    return model


def check_computed(language: Mapping[str, Any], vision: Any) -> None:
    """Raise CheckpointError where a config.json asks for what training does not compute."""
    if not isinstance(vision, Mapping):
        raise CheckpointError(
            f"config.json has vision_config={vision!r}, which must hold the sizes of the tower. "
            "Take the file that was published with the weights."
        )
    problems = list(config_problems(language, vision))
    if problems:
        raise CheckpointError(
            f"config.json cannot work: {'; '.join(problems)}. Take the file that was published "
            "with the weights."
        )


def build_config(
    language: Mapping[str, Any],
    vision: Mapping[str, Any],
    variant: str,
    layer_indices: list[int],
    name: str,
) -> ModelConfig:
    """Put a model together from a Qwen2 config, a SigLIP vision config and a variant."""
    fusion, projector, shift, template = VARIANTS[variant]
    tower_default = VisionTowerConfig()
    return ModelConfig(
        name=name,
        hidden_size=language["hidden_size"],
        ffn_hidden_size=language["intermediate_size"],
        num_layers=language["num_hidden_layers"],
        num_attention_heads=language["num_attention_heads"],
        num_kv_heads=language["num_key_value_heads"],
        vocab_size=language["vocab_size"],
        rope_theta=_rope_theta(language),
        rms_norm_eps=language.get("rms_norm_eps", 1e-6),
        max_position_embeddings=language.get("max_position_embeddings", 32768),
        tie_word_embeddings=language.get("tie_word_embeddings", False),
        template=template,
        projector=projector,
        hyper_attention=HyperAttentionConfig(
            layer_indices=layer_indices, fusion=fusion, media_position_shift=shift
        ),
        vision_tower=VisionTowerConfig(
            hidden_size=vision.get("hidden_size", tower_default.hidden_size),
            ffn_hidden_size=vision.get("intermediate_size", tower_default.ffn_hidden_size),
            num_layers=vision.get("num_hidden_layers", tower_default.num_layers),
            num_attention_heads=vision.get(
                "num_attention_heads", tower_default.num_attention_heads
            ),
            image_size=vision.get("image_size", tower_default.image_size),
            patch_size=vision.get("patch_size", tower_default.patch_size),
            layer_norm_eps=vision.get("layer_norm_eps", tower_default.layer_norm_eps),
        ),
    )


def _rope_theta(language: Mapping[str, Any]) -> float:
    """Read the rotary base; transformers 5 moved it below rope_parameters."""
    if "rope_theta" in language:
        return float(language["rope_theta"])
    parameters = language.get("rope_parameters") or {}
    return float(parameters.get("rope_theta", 1e6))


def published_config(model: ModelConfig, dtype: str) -> dict[str, Any]:
    """Write an Owl3 config.json with the published field names.

    Args:
        model: the architecture.
        dtype: of the weights: "bfloat16".

    Raises:
        CheckpointError: no Owl3 folder can hold such a model.
    """
    return {
        "architectures": ["mPLUGOwl3Model"],
        "model_type": MODEL_TYPE,
        **published_choices(model),
        **_language_fields(model, dtype),
        "hyper_layers": [index + 1 for index in model.hyper_attention.layer_indices],
        "vision_config": {"model_type": "siglip_vision_model", **_vision_fields(model)},
    }


def qwen2_config(model: ModelConfig, dtype: str) -> dict[str, Any]:
    """Write the config.json of the language model alone, for transformers' Qwen2ForCausalLM."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        **_language_fields(model, dtype),
    }


def siglip_config(model: ModelConfig, dtype: str, *, head: bool) -> dict[str, Any]:
    """Write the config.json of the vision model alone, for transformers' SiglipVisionModel.

    Args:
        model: the architecture.
        dtype: of the weights.
        head: whether the pooling head is there.
    """
    return {
        "architectures": ["SiglipVisionModel"],
        "model_type": "siglip_vision_model",
        **_vision_fields(model),
        "attention_dropout": 0.0,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": model.vision_tower.layer_norm_eps,
        "num_channels": 3,
        "torch_dtype": dtype,
        "vision_use_head": head,
    }


def _language_fields(model: ModelConfig, dtype: str) -> dict[str, Any]:
    """Fields of Qwen2's config that Owl3's repeats."""
    # Another tokenizer's control tokens are not known here: --base brings them.
    control = {"bos_token_id": 151643, "eos_token_id": 151645}
    return {
        "attention_dropout": 0.0,
        **(control if model.vocab_size >= _QWEN2_VOCABULARY else {}),
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


def _vision_fields(model: ModelConfig) -> dict[str, Any]:
    tower = model.vision_tower
    return {
        "hidden_size": tower.hidden_size,
        "image_size": tower.image_size,
        "intermediate_size": tower.ffn_hidden_size,
        "num_attention_heads": tower.num_attention_heads,
        "num_hidden_layers": tower.num_layers,
        "patch_size": tower.patch_size,
    }


def published_choices(model: ModelConfig) -> dict[str, Any]:
    """Say how the model is made where no published variant is made so.

    Published folders tell it by tensor names alone. owl.hf reads and writes these fields as well.

    Raises:
        CheckpointError: no Owl3 folder can hold such a model.
    """
    if model.projector not in {projector for _, projector, _, _ in VARIANTS.values()}:
        raise CheckpointError(
            f"model.projector={model.projector} has no place in an Owl3 folder: published models "
            f"have linear or mlp. --part language-model and --part vision-model work."
        )
    attention = model.hyper_attention
    shift = attention.media_position_shift
    if (attention.fusion, model.projector, shift, model.template) in VARIANTS.values():
        return {}
    return {
        "fusion": str(attention.fusion),
        "projector": str(model.projector),
        "media_position_shift": shift,
        "template": str(model.template),
    }


def _with_choices(model: ModelConfig, hf: Mapping[str, Any]) -> ModelConfig:
    """Undo published_choices: what config.json says holds before what the tensor names suggest."""
    attention = model.hyper_attention
    shift = hf.get("media_position_shift")
    return replace(
        model,
        projector=ProjectorKind(hf.get("projector") or model.projector),
        template=hf.get("template") or model.template,
        hyper_attention=replace(
            attention,
            fusion=FusionKind(hf.get("fusion") or attention.fusion),
            media_position_shift=attention.media_position_shift if shift is None else shift,
        ),
    )
