# SPDX-License-Identifier: Apache-2.0
"""The published config of mPLUG-Owl: three nested configs and the number of queries."""

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


class Owl1VisionConfig(PretrainedConfig):
    """Sizes of the vision tower; missing values have the published defaults."""

    model_type = "mplug-owl-vision"
    base_config_key = "vision_config"

    def __init__(self, **values: Any) -> None:
        sizes = asdict(ClipSizes.of(values)) | {"hidden_act": "quick_gelu"}
        super().__init__(**sizes | values)


class Owl1Config(PretrainedConfig):
    """Sizes and choices of one model.

    Args:
        text_config: a LlamaConfig or its values.
        vision_config: of the tower, likewise.
        visual_abstractor_config: of the abstractor; missing values have the published defaults.
        num_query_tokens: vectors of a picture without the end vector.
        image_aspect_ratio: how pictures become square: pad, resize (stretch), or anything else for
            a crop. Without it the processor stretches, as published.
        **kwargs: for PretrainedConfig. The text's attributes, which published files repeat here,
            are read from text_config alone.
    """

    model_type = "mplug-owl"
    # A list, since Trainer appends to it.
    keys_to_ignore_at_inference = ["cache", "past_key_values"]  # noqa: RUF012
    sub_configs = {  # noqa: RUF012 - transformers' own name
        "text_config": LlamaConfig,
        "vision_config": Owl1VisionConfig,
    }

    def __init__(
        self,
        text_config: LlamaConfig | Mapping[str, Any] | None = None,
        vision_config: Owl1VisionConfig | Mapping[str, Any] | None = None,
        visual_abstractor_config: Mapping[str, Any] | None = None,
        num_query_tokens: int = 64,
        image_aspect_ratio: str | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(text_config, LlamaConfig):
            text = dict(text_config or {})
            self.text_model_type = text.pop("model_type", "llama")
            text_config = LlamaConfig(**text)
        self.text_config = text_config
        if not isinstance(vision_config, Owl1VisionConfig):
            vision_config = Owl1VisionConfig(**(vision_config or {}))
        self.vision_config = vision_config
        width = vision_config.hidden_size
        sizes = asdict(AbstractorSizes(attention_probs_dropout_prob=0.1))
        del sizes["num_learnable_queries"]
        sizes |= {"hidden_size": width, "encoder_hidden_size": width}
        self.visual_abstractor_config = sizes | dict(visual_abstractor_config or {})
        self.num_query_tokens = num_query_tokens
        self.image_aspect_ratio = image_aspect_ratio
        for name in _REPEATED:
            kwargs.pop(name, None)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            kwargs.setdefault(name, getattr(text_config, name))
        kwargs.pop("tie_word_embeddings", None)
        super().__init__(tie_word_embeddings=text_config.tie_word_embeddings, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Look the text's attributes up in text_config."""
        if name in _REPEATED and "text_config" in self.__dict__:
            return getattr(self.text_config, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    @property
    def tower(self) -> ClipSizes:
        """Sizes of the vision tower."""
        return ClipSizes.of(vars(self.vision_config))

    @property
    def abstractor(self) -> AbstractorSizes:
        """Sizes of the abstractor."""
        queries = {"num_learnable_queries": self.num_query_tokens}
        return AbstractorSizes.of(self.visual_abstractor_config | queries)

    @property
    def keys_per_picture(self) -> int:
        """Vectors of a picture: the queries and the end vector."""
        return self.num_query_tokens + 1

    @property
    def fit(self) -> str:
        """How a picture becomes square: pad, stretch or crop."""
        return read_fit(self.image_aspect_ratio, "stretch")

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the contents of config.json, defaults included."""
        return self.to_dict() | {
            "text_config": complete(self.text_config.to_dict()),
            "vision_config": self.vision_config.to_dict(),
        }

    def check(self) -> None:
        """Raise ValueError for a config from which no model can be built."""
        problems = list(self._problems())
        if problems:
            lines = [f"  {problem}. Use the published config.json." for problem in problems]
            raise ValueError("\n".join(["this config is not a valid mPLUG-Owl:", *lines]))

    def _problems(self) -> Iterator[str]:
        kind = getattr(self, "text_model_type", "llama")
        if kind != "llama":
            yield (
                f"text_config.model_type={kind!r} must be 'llama': the multilingual model is not "
                "supported"
            )
        yield from (f"text_config.{each}" for each in llama_problems(vars(self.text_config)))
        abstractor = self.visual_abstractor_config
        queries = {"num_learnable_queries": self.num_query_tokens}
        names = ("vision_config", "visual_abstractor_config")
        yield from media_problems(vars(self.vision_config), abstractor | queries, names)


_REPEATED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "max_position_embeddings", "initializer_range", "rms_norm_eps",
    "use_cache",
)  # fmt: skip
"""Fields of text_config that published files hold at the top level as well."""
