# SPDX-License-Identifier: Apache-2.0
"""The published config of mPLUG-Owl2: LLaMA's fields, and visual_config beside them."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from transformers import LlamaConfig, PretrainedConfig

from owl.portable.spliced.abstractor_owl import AbstractorSizes
from owl.portable.spliced.clip_tower_owl import ClipSizes
from owl.portable.spliced.spliced_config_owl import (
    complete,
    llama_problems,
    media_problems,
    read_fit,
)

_TOWER = {"image_size": 448, "attention_dropout": 0.0, "hidden_act": "quick_gelu"}
_TOWER |= {"num_channels": 3, "use_cls_token": True, "use_post_layernorm": True}
_ABSTRACTOR = {"add_v2t_pos_emb": False, "use_cls_token": True}


class Owl2Config(LlamaConfig):
    """Sizes and choices of one model.

    Args:
        visual_config: {"visual_model": ..., "visual_abstractor": ...}; missing values have the
            published defaults.
        image_aspect_ratio: how pictures become square: pad, resize (stretch), or anything else
            for a crop. Without it the processor stretches, as published.
        template: mplug_owl2 (of the published inference) or v1 (of the published fine-tuning).
        **kwargs: for LlamaConfig.
    """

    model_type = "mplug_owl2"
    base_model_tp_plan = base_model_pp_plan = None  # LLaMA's know no second copy of a projection
    # A list, since Trainer appends to it.
    keys_to_ignore_at_inference = ["cache", "past_key_values"]  # noqa: RUF012

    def __init__(
        self,
        visual_config: Mapping[str, Any] | None = None,
        image_aspect_ratio: str | None = None,
        template: str = "mplug_owl2",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        parts = visual_config or {}
        tower = _TOWER | dict(parts.get("visual_model") or {})
        tower = asdict(ClipSizes.of(tower)) | tower
        given = _ABSTRACTOR | dict(parts.get("visual_abstractor") or {})
        width = {"hidden_size": tower["hidden_size"], "encoder_hidden_size": tower["hidden_size"]}
        abstractor = asdict(AbstractorSizes()) | width | given
        self.visual_config = {"visual_model": tower, "visual_abstractor": abstractor}
        self.image_aspect_ratio = image_aspect_ratio
        self.template = template

    @property
    def vision_config(self) -> PretrainedConfig:
        """The tower's part, where clients of transformers look for it: a copy."""
        return PretrainedConfig(**self.visual_config["visual_model"])

    @property
    def tower(self) -> ClipSizes:
        """Sizes of the vision tower."""
        return ClipSizes.of(self.visual_config["visual_model"])

    @property
    def abstractor(self) -> AbstractorSizes:
        """Sizes of the abstractor."""
        return AbstractorSizes.of(self.visual_config["visual_abstractor"])

    @property
    def keys_per_picture(self) -> int:
        """Vectors of a picture: the queries and the end vector."""
        return self.abstractor.num_learnable_queries + 1

    @property
    def fit(self) -> str:
        """How a picture becomes square: pad, stretch or crop."""
        return read_fit(self.image_aspect_ratio, "stretch")

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the contents of config.json, defaults included."""
        return complete(self.to_dict())

    def check(self) -> None:
        """Raise ValueError for a config from which no model can be built."""
        problems = list(self._problems())
        if problems:
            lines = [f"  {problem}. Use the published config.json." for problem in problems]
            raise ValueError("\n".join(["this config is not a valid mPLUG-Owl2:", *lines]))

    def _problems(self) -> Iterator[str]:
        yield from llama_problems(vars(self))
        parts = self.visual_config
        names = ("visual_config.visual_model", "visual_config.visual_abstractor")
        yield from media_problems(parts["visual_model"], parts["visual_abstractor"], names)
