# SPDX-License-Identifier: Apache-2.0
"""The published config.json of mPLUG-Owl3, read to a ModelConfig and written from one."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from owl.config.run import ModelConfig, ProjectorKind
from owl.convert.tables.config_fields import (
    language_fields,
    read_decoder,
    read_tower,
    vision_fields,
)
from owl.errors import CheckpointError
from owl.families.owl3.config import FusionKind, HyperAttentionConfig
from owl.families.owl3.limits_owl3 import SIZES, config_problems
from owl.families.owl3.variants_owl3 import VARIANTS, Variant, variant_of

MODEL_TYPE = "mplugowl3"
_NEEDED = (*SIZES, "hyper_layers", "vision_config")
_AS_PUBLISHED = "Use the file that was published with the weights"


def claims(config: Mapping[str, Any], names: Collection[str]) -> bool:
    """Whether a folder is an mPLUG-Owl3; early ones have no model_type."""
    if "model_type" in config:
        return bool(config["model_type"] == MODEL_TYPE)
    return variant_of(names) is not None


def read_config(config: Mapping[str, Any], names: Collection[str], name: str) -> ModelConfig:
    """Read a config.json; the tensor names determine the variant.

    Args:
        config: the parsed file.
        names: of the folder's tensors.
        name: name for the model.

    Raises:
        CheckpointError: the file lacks a field, or describes a model that cannot be built.
    """
    missing = [field for field in _NEEDED if field not in config]
    if missing:
        raise CheckpointError(
            f"config.json lacks {', '.join(missing)}. {_AS_PUBLISHED}; hyper_layers lists, counted "
            f"from 1, the decoder layers that see images."
        )
    check_computed(config, config["vision_config"])
    variant = variant_of(names)
    if variant is None:
        raise CheckpointError(
            "no tensor is named *.self_attn.v_kv_proj.*: this is not an mPLUG-Owl3 checkpoint. To "
            "start from a plain Qwen2 and SigLIP, run python -m owl.convert init."
        )
    layers = [index - 1 for index in config["hyper_layers"]]  # published indices count from 1
    model = build_config(config, config["vision_config"], variant, layers, name)
    model = _with_choices(model, config)
    problems = list(model.problems())
    if problems:
        raise CheckpointError("config.json describes an invalid model: " + "; ".join(problems))
    return model


def check_computed(language: Mapping[str, Any], vision: Any) -> None:
    """Raise CheckpointError where a config.json asks for something that training does not compute.

    Args:
        language: config.json, or that of a plain Qwen2.
        vision: its vision_config.
    """
    if not isinstance(vision, Mapping):
        raise CheckpointError(
            f"config.json has vision_config={vision!r}, which must hold the sizes of the tower. "
            f"{_AS_PUBLISHED}."
        )
    problems = list(config_problems(language, vision))
    if problems:
        raise CheckpointError(
            f"config.json describes an invalid model: {'; '.join(problems)}. {_AS_PUBLISHED}."
        )


def build_config(
    language: Mapping[str, Any],
    vision: Mapping[str, Any],
    variant: str,
    layer_indices: list[int],
    name: str,
) -> ModelConfig:
    """Build a ModelConfig from a Qwen2 config, a SigLIP vision config and a variant.

    Args:
        language: fields as Qwen2's config.json has them.
        vision: fields as SigLIP's config.json has them.
        variant: key of VARIANTS.
        layer_indices: hyper layers, counted from 0.
        name: name for the model.
    """
    chosen = VARIANTS[variant]
    return ModelConfig(
        name=name,
        **read_decoder(language),
        template=chosen.template,
        projector=ProjectorKind(chosen.projector),
        hyper_attention=HyperAttentionConfig(
            layer_indices=layer_indices,
            fusion=FusionKind(chosen.fusion),
            media_position_shift=chosen.media_position_shift,
        ),
        vision_tower=read_tower(vision),
    )


def write_config(model: ModelConfig, dtype: str) -> dict[str, Any]:
    """Write a config.json with the published field names.

    Args:
        model: the architecture.
        dtype: of the weights: "bfloat16".

    Raises:
        CheckpointError: the published form cannot hold such a model.
    """
    return {
        "architectures": ["mPLUGOwl3Model"],
        "model_type": MODEL_TYPE,
        **_choices(model),
        **language_fields(model, dtype),
        "hyper_layers": [index + 1 for index in model.hyper_attention.layer_indices],
        "vision_config": {"model_type": "siglip_vision_model", **vision_fields(model)},
    }


def _choices(model: ModelConfig) -> dict[str, Any]:
    """Return fields for a combination that no published variant has; empty for a variant.

    A published folder is recognised by its tensor names alone. owl.hf uses these fields as well.
    """
    if str(model.projector) not in {variant.projector for variant in VARIANTS.values()}:
        raise CheckpointError(
            f"model.projector={model.projector} cannot be exported as an Owl3 folder: published "
            f"models have linear or mlp. --part language-model and --part vision-model work."
        )
    attention = model.hyper_attention
    chosen = Variant(
        fusion=str(attention.fusion),
        projector=str(model.projector),
        media_position_shift=attention.media_position_shift,
        template=str(model.template),
    )
    return {} if chosen in VARIANTS.values() else vars(chosen)


def _with_choices(model: ModelConfig, config: Mapping[str, Any]) -> ModelConfig:
    """Undo _choices: fields of config.json take precedence over what the tensor names suggest."""
    attention = model.hyper_attention
    shift = config.get("media_position_shift")
    return replace(
        model,
        projector=ProjectorKind(config.get("projector") or model.projector),
        template=config.get("template") or model.template,
        hyper_attention=replace(
            attention,
            fusion=FusionKind(config.get("fusion") or attention.fusion),
            media_position_shift=attention.media_position_shift if shift is None else shift,
        ),
    )
