# SPDX-License-Identifier: Apache-2.0
"""The published config.json of mPLUG-Owl, read to a ModelConfig and written from one."""

from collections.abc import Collection, Mapping
from typing import Any

from owl.config.run import FamilyKind, ModelConfig, PictureFit, ProjectorKind
from owl.convert.tables.config_fields import (
    abstractor_fields,
    check_clip_llama,
    clip_fields,
    clip_llama_problems,
    fit_field,
    llama_fields,
    raise_problems,
    read_abstractor,
    read_clip,
    read_fit,
    read_llama,
)
from owl.errors import CheckpointError
from owl.families.owl1.config import Owl1Config

MODEL_TYPE = "mplug-owl"
_PARTS = ("text_config", "vision_config", "visual_abstractor_config")


def claims(config: Mapping[str, Any], names: Collection[str]) -> bool:
    """Whether a folder is an mPLUG-Owl."""
    return bool(config.get("model_type") == MODEL_TYPE)


def read_config(config: Mapping[str, Any], names: Collection[str], name: str) -> ModelConfig:
    """Read a config.json.

    Args:
        config: the parsed file.
        names: of the folder's tensors.
        name: name for the model.

    Raises:
        CheckpointError: the file lacks a field, or describes a model that cannot be built.
    """
    try:
        language, vision, abstractor = (config[part] for part in _PARTS)
        raise_problems(_problems(language, vision, abstractor))
        model = ModelConfig(
            name=name,
            family=FamilyKind.owl1,
            **read_llama(language),
            template=config.get("template", "owl1"),
            projector=ProjectorKind.abstractor,
            abstractor=read_abstractor(
                abstractor, queries=config.get("num_query_tokens", 64), positions=False
            ),
            vision_tower=read_clip(vision),
            owl1=Owl1Config(fit=read_fit(config, PictureFit.stretch)),
        )
    except KeyError as missing:
        raise CheckpointError(f"config.json lacks {missing}. Use the published file.") from None
    raise_problems(list(model.problems()))
    return model


def _problems(
    language: Mapping[str, Any], vision: Mapping[str, Any], abstractor: Mapping[str, Any]
) -> list[str]:
    if (kind := language.get("model_type", "llama")) != "llama":
        return [f"text_config.model_type={kind!r} must be 'llama': no other decoder is supported"]
    return list(clip_llama_problems(language, vision, abstractor))


def write_config(model: ModelConfig, dtype: str) -> dict[str, Any]:
    """Write a config.json with the published field names.

    Args:
        model: the architecture.
        dtype: of the weights: "bfloat16".

    Raises:
        CheckpointError: the published form cannot hold such a model.
    """
    check_clip_llama(model)
    return {
        "architectures": ["MplugOwlForConditionalGeneration"],
        "model_type": MODEL_TYPE,
        "num_query_tokens": model.abstractor.num_queries,
        "text_config": {"model_type": "llama", **llama_fields(model, dtype)},
        "vision_config": clip_fields(model),
        "visual_abstractor_config": abstractor_fields(model),
        "torch_dtype": dtype,
        **fit_field(model.owl1.fit),
        "template": model.template,
    }
