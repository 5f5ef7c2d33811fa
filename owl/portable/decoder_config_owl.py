# SPDX-License-Identifier: Apache-2.0
"""Config fields of a decoder made of blocks_owl's parts; a family's config adds its own."""

from inspect import signature
from typing import Any

from transformers import PretrainedConfig


class OwlDecoderConfig(PretrainedConfig):
    """Sizes and choices of a Qwen2 decoder, under transformers' names.

    A subclass defines __init__: otherwise transformers 5 generates one that does not call this one.

    Args:
        head_dim: width d of an attention head, by default hidden_size / num_attention_heads.
        rope_theta: base of the rotary frequencies, by default 1e6.
        sliding_window: dropped unless use_sliding_window.
        **kwargs: for PretrainedConfig.
    """

    def __init__(
        self,
        vocab_size: int = 151851,
        hidden_size: int = 3584,
        intermediate_size: int = 18944,
        num_hidden_layers: int = 28,
        num_attention_heads: int = 28,
        num_key_value_heads: int = 4,
        hidden_act: str = "silu",
        max_position_embeddings: int = 32768,
        rms_norm_eps: float = 1e-6,
        rope_theta: float | None = None,
        head_dim: int | None = None,
        tie_word_embeddings: bool = False,
        initializer_range: float = 0.02,
        use_cache: bool = True,
        use_sliding_window: bool = False,
        sliding_window: int | None = None,
        attention_dropout: float = 0.0,
        bos_token_id: int | None = None,
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)
        self.tie_word_embeddings = tie_word_embeddings
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.hidden_act = hidden_act
        self.max_position_embeddings = max_position_embeddings
        self.rms_norm_eps = rms_norm_eps
        self.rope_theta = float(rope_theta or 1e6)
        self.head_dim = head_dim or _quotient(hidden_size, num_attention_heads)
        self.initializer_range = initializer_range
        self.use_cache = use_cache
        self.use_sliding_window = use_sliding_window
        # Published configs name a window and do not use it; transformers' caches look at the window
        # alone, and would drop the keys beyond it.
        self.sliding_window = sliding_window if use_sliding_window else None
        self.attention_dropout = attention_dropout
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        self.pad_token_id = pad_token_id

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the contents of config.json, with every argument of the class.

        The published code fills what is missing with defaults of its own.
        """
        values = self.to_dict()
        names = {**signature(OwlDecoderConfig).parameters, **signature(type(self)).parameters}
        return super().to_diff_dict() | {name: values[name] for name in names if name in values}

    @property
    def attention_problem(self) -> str:
        """Why attention cannot be computed as the config requests; empty if it can."""
        if self.attention_dropout:
            return (
                f"attention_dropout={self.attention_dropout} must be 0: no attention weight is "
                "dropped here, and none was in the published training. Set it to 0.0."
            )
        if not str(self._attn_implementation).startswith(_OTHER_ATTENTIONS):
            return ""
        return (
            f"attn_implementation={self._attn_implementation!r} takes other masks than those built "
            "here. Leave it out, or use 'sdpa', 'flash_attention_2' or 'eager'."
        )

    @property
    def uses_torch_attention(self) -> bool:
        """Whether tokens attend to tokens through torch's own function, as by default."""
        return self._attn_implementation in (None, "sdpa", "eager")


_OTHER_ATTENTIONS = ("flex_attention", "paged")


def _quotient(size: Any, parts: Any) -> int:
    """Divide sizes; 0 if one of them is invalid, which the family's check reports."""
    valid = isinstance(size, int) and isinstance(parts, int) and parts > 0
    return size // parts if valid else 0
