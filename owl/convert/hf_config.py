# SPDX-License-Identifier: Apache-2.0
"""A published config.json to ModelConfig.

The three variants share their config keys: what tells them apart are the tensor names.
"""

from collections.abc import Collection, Mapping
from typing import Any

from owl.config.run import (
    FusionKind,
    HyperAttentionConfig,
    ModelConfig,
    ProjectorKind,
    TemplateKind,
    VisionTowerConfig,
)
from owl.errors import CheckpointError

# variant: fusion, projector, media position shift, template
VARIANTS: dict[str, tuple[FusionKind, ProjectorKind, int, TemplateKind]] = {
    "240728": (FusionKind.token_gate, ProjectorKind.linear, 1, TemplateKind.v2),
    "241014": (FusionKind.static_gate, ProjectorKind.linear, 1, TemplateKind.v3),
    "241101": (FusionKind.joint_softmax, ProjectorKind.mlp, 0, TemplateKind.v3),
}


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
    layers = [index - 1 for index in hf["hyper_layers"]]  # published indices count from 1
    return build_config(hf, hf["vision_config"], variant_of(tensor_names), layers, name)


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
