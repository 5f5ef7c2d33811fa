# SPDX-License-Identifier: Apache-2.0
"""The published config.json of mPLUG-Owl2, read to a ModelConfig and written from one."""

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
from owl.families.owl2.config import Owl2Config

MODEL_TYPE = "mplug_owl2"
_VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 448,
    "patch_size": 14,
}
_ABSTRACTOR = {
    "intermediate_size": 2816,
    "num_attention_heads": 16,
    "num_hidden_layers": 6,
    "num_learnable_queries": 64,
}
"""What the published code takes where config.json names no size."""


def claims(config: Mapping[str, Any], names: Collection[str]) -> bool:
    """Whether a folder is an mPLUG-Owl2."""
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
    visual = config.get("visual_config") or {}
    vision = _VISION | (visual.get("visual_model") or {})
    abstractor = _ABSTRACTOR | (visual.get("visual_abstractor") or {})
    raise_problems(list(clip_llama_problems(config, vision, abstractor)))
    try:
        decoder = read_llama(config)
    except KeyError as missing:
        raise CheckpointError(f"config.json lacks {missing}. Use the published file.") from None
    model = ModelConfig(
        name=name,
        family=FamilyKind.owl2,
        **decoder,
        template=config.get("template", "mplug_owl2"),
        projector=ProjectorKind.abstractor,
        abstractor=read_abstractor(
            abstractor, queries=abstractor["num_learnable_queries"], positions=True
        ),
        vision_tower=read_clip(vision),
        owl2=Owl2Config(fit=read_fit(config, PictureFit.pad)),
    )
    raise_problems(list(model.problems()))
    return model


def write_config(model: ModelConfig, dtype: str) -> dict[str, Any]:
    """Write a config.json with the published field names.

    Args:
        model: the architecture.
        dtype: of the weights: "bfloat16".

    Raises:
        CheckpointError: the published form cannot hold such a model.
    """
    check_clip_llama(model)
    tower = model.vision_tower
    return {
        "architectures": ["MPLUGOwl2LlamaForCausalLM"],
        "model_type": MODEL_TYPE,
        **llama_fields(model, dtype),
        "visual_config": {
            "visual_model": {
                **clip_fields(model),
                "use_cls_token": True,
                "use_post_layernorm": True,
            },
            "visual_abstractor": {
                **abstractor_fields(model),
                "add_v2t_pos_emb": False,
                "grid_size": tower.image_size // tower.patch_size,
                "num_learnable_queries": model.abstractor.num_queries,
                "use_cls_token": True,
            },
        },
        **fit_field(model.owl2.fit),
        "template": model.template,
    }
