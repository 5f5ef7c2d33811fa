# SPDX-License-Identifier: Apache-2.0
"""The parts of a Qwen2 decoder layer in plain torch, under the published names.

Written out rather than taken from transformers' Qwen2: the signatures of its attention and layers
change between releases, which is what breaks the published remote code.

Letters: b rows, q tokens computed now, a heads, d head width, h hidden size.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from owl.portable.decoder_config_owl import OwlDecoderConfig
from owl.portable.rotary_owl import (
    TextContext,
    at_least_float32,
    attend,
    attend_eager,
    rotate,
)


class OwlRMSNorm(nn.Module):
    """Root-mean-square norm: computed in float32, cast, then scaled."""

    kernel: Callable[[Tensor, Tensor, float], Tensor] | None = None  # set by owl.hf.liger

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalise the last dimension of [..., h]."""
        if self.kernel is not None:
            return self.kernel(hidden_states, self.weight, self.eps)
        wide = at_least_float32(hidden_states)
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.to(hidden_states.dtype)


class OwlMLP(nn.Module):
    """SwiGLU."""

    kernel: Callable[[Tensor, Tensor], Tensor] | None = None  # set by owl.hf.liger

    def __init__(self, config: OwlDecoderConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map [..., h] to the same shape."""
        gate, up = self.gate_proj(hidden_states), self.up_proj(hidden_states)
        gated = F.silu(gate) * up if self.kernel is None else self.kernel(gate, up)
        return self.down_proj(gated)


class OwlAttention(nn.Module):
    """Causal self-attention with grouped heads, and biases on queries, keys and values."""

    def __init__(self, config: OwlDecoderConfig, layer_index: int) -> None:
        super().__init__()
        self.layer_index = layer_index
        self.head_dim = config.head_dim
        # Read by attention functions of transformers and vLLM.
        self.config, self.is_causal, self.layer_idx = config, True, layer_index
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        width, key_width = config.hidden_size, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(width, config.num_attention_heads * config.head_dim)
        self.k_proj = nn.Linear(width, key_width)
        self.v_proj = nn.Linear(width, key_width)
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, width, bias=False)

    def forward(self, hidden_states: Tensor, context: TextContext) -> Tensor:
        """Attend to the text so far: [b, q, h], normed, to [b, q, h]."""
        query, key, value = self.text_heads(hidden_states, context)
        return self.o_proj(self.attend_to_text(query, key, value, context))

    def text_heads(
        self, hidden_states: Tensor, context: TextContext
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Project to rotated queries [b, a, q, d], and rotated keys and values of all tokens."""
        query, key, value = (
            projection(hidden_states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = rotate(query, context.rotary), rotate(key, context.rotary)
        if context.cache is not None:
            # The static cache of transformers 4 does not count the tokens it holds.
            slots = torch.arange(context.num_keys, device=key.device)[-key.shape[2] :]
            key, value = context.cache.update(
                key, value, self.layer_index, {"cache_position": slots}
            )
            key, value = key[:, :, : context.num_keys], value[:, :, : context.num_keys]
        return query, key, value

    def attend_to_text(
        self, query: Tensor, key: Tensor, value: Tensor, context: TextContext
    ) -> Tensor:
        """Attend to tokens: [b, q, a * d]."""
        if context.eager:
            heads, weights = attend_eager(
                query, key, value, mask=context.mask, is_causal=context.is_causal
            )
            context.keep(text=weights)
            return heads
        if self.config.uses_torch_attention:
            return attend(query, key, value, mask=context.mask, is_causal=context.is_causal)
        attention = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        heads, _ = attention(
            self, query, key, value, context.padding,
            dropout=0.0, scaling=self.head_dim**-0.5, **context.options,
        )  # fmt: skip
        return heads.reshape(query.shape[0], query.shape[2], -1)  # vLLM's are [tokens, a * d]
