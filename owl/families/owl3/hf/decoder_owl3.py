# SPDX-License-Identifier: Apache-2.0
"""The Qwen2 decoder with hyper-attention layers, in plain torch, under the published names.

Written out rather than built on transformers' Qwen2: the signatures of its attention and layers
change between releases, which is what breaks the published remote code.

Letters: b rows, q tokens computed now, a heads, k key-value heads, d head width, h hidden size,
M most tiles of a row, p patches of a tile.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from owl.families.owl3.hf.configuration_owl3 import Owl3Config
from owl.families.owl3.hf.media_owl3 import KeyValue, Media
from owl.portable.rotary_owl import TextContext, at_least_float32, attend, rotary, rotate


class Owl3RMSNorm(nn.Module):
    """Root-mean-square norm as in Qwen2: computed in float32, cast, then scaled."""

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


class Owl3MLP(nn.Module):
    """SwiGLU."""

    kernel: Callable[[Tensor, Tensor], Tensor] | None = None  # set by owl.hf.liger

    def __init__(self, config: Owl3Config) -> None:
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


class Owl3Attention(nn.Module):
    """Causal self-attention with grouped heads."""

    def __init__(self, config: Owl3Config, layer_index: int) -> None:
        super().__init__()
        self.layer_index = layer_index
        self.head_dim = config.head_dim
        self.config, self.is_causal = config, True  # transformers' attention functions ask for them
        width, key_width = config.hidden_size, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(width, config.num_attention_heads * config.head_dim)
        self.k_proj = nn.Linear(width, key_width)
        self.v_proj = nn.Linear(width, key_width)
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, width, bias=False)

    def forward(self, hidden_states: Tensor, context: TextContext) -> Tensor:
        """Attend to the text so far: [b, q, h], normed, to [b, q, h]."""
        query, key, value = self.text_heads(hidden_states, context)
        return self.o_proj(self.read_text(query, key, value, context))

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
            # Where they go: transformers 4's static cache does not count for itself.
            places = torch.arange(context.num_keys, device=key.device)[-key.shape[2] :]
            key, value = context.cache.update(
                key, value, self.layer_index, {"cache_position": places}
            )
            key, value = key[:, :, : context.num_keys], value[:, :, : context.num_keys]
        return query, key, value

    def read_text(self, query: Tensor, key: Tensor, value: Tensor, context: TextContext) -> Tensor:
        """Attend to tokens: [b, q, a * d]."""
        if self.config.uses_torch_attention:
            return attend(query, key, value, mask=context.mask, is_causal=context.is_causal)
        attention = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        scale = self.head_dim**-0.5
        heads, _ = attention(self, query, key, value, context.padding, dropout=0.0, scaling=scale)
        return heads.flatten(2)


class Owl3HyperAttention(Owl3Attention):
    """Self-attention whose queries also read the images that precede them (HATB).

    One key-value projection for all patches of all images; rotary positions on keys, one per tile
    (MI-RoPE); three published ways to mix (config.fusion).
    """

    def __init__(self, config: Owl3Config, layer_index: int) -> None:
        super().__init__(config, layer_index)
        self.fusion = config.fusion
        self.num_kv_heads = config.num_key_value_heads
        self.rope_theta = config.rope_theta
        self.v_kv_proj = nn.Linear(config.hidden_size, 2 * self.num_kv_heads * self.head_dim)
        if self.fusion == "token_gate":
            self.gate_proj = nn.Sequential(nn.Linear(self.head_dim, self.head_dim))
        if self.fusion == "static_gate":
            self.gate = nn.Parameter(torch.zeros(config.hidden_size))

    def forward(
        self,
        hidden_states: Tensor,
        context: TextContext,
        media_key_value: KeyValue | None = None,
        sees: Tensor | None = None,
    ) -> Tensor:
        """Attend to the text so far, and where there are pictures to the visible patches.

        One entrance for both, and __call__ it: accelerate brings the weights of an offloaded layer
        (the gate among them) when forward is called, and only then.

        Args:
            hidden_states: [b, q, h], normed.
            context: of the text.
            media_key_value: [b, k, M * p, d] each; None where no row has a picture.
            sees: [b, 1, q, M * p] bool, which patches each token sees.

        Returns:
            [b, q, h].
        """
        if media_key_value is None or sees is None:
            return super().forward(hidden_states, context)
        return self.read_both(hidden_states, context, media_key_value, sees)

    def media_heads(self, features: Tensor, media: Media) -> KeyValue:
        """Project normed features [b, M * p, h] to rotated keys and values [b, k, M * p, d]."""
        # A head's key lies before its value, head after head.
        merged = self.v_kv_proj(features).unflatten(-1, (self.num_kv_heads, 2, self.head_dim))
        key, value = (part.transpose(1, 2) for part in merged.unbind(dim=3))
        table = rotary(
            media.position.repeat_interleave(media.patches, dim=1),
            head_dim=self.head_dim,
            theta=self.rope_theta,
            dtype=features.dtype,
        )
        return rotate(key, table), value

    def read_both(
        self, hidden_states: Tensor, context: TextContext, media_key_value: KeyValue, sees: Tensor
    ) -> Tensor:
        """Attend to the text so far and to the visible patches; see forward."""
        heads = self.text_heads(hidden_states, context)
        if self.fusion == "joint_softmax":
            return self.o_proj(self._joint(*heads, context, media_key_value, sees))
        text = self.read_text(*heads, context)
        sees_any = sees.any(dim=-1, keepdim=True)  # [b, 1, q, 1]
        # A token that sees no patch looks at all of them, and what it finds is thrown away below:
        # a softmax over nothing would be NaN, also in the gradient.
        images = attend(heads[0], *media_key_value, mask=_or_none(sees | ~sees_any))
        gate = self._gate(text)
        return self.o_proj(torch.where(sees_any[:, 0], text * (1 - gate) + images * gate, text))

    def _gate(self, text: Tensor) -> Tensor:
        """Say how much of the image side is let in: of [b, q, a * d], 0..1."""
        if self.fusion == "static_gate":
            return torch.sigmoid(self.gate)
        # In rows, since quantised layers take no more than three dimensions.
        rows = text.reshape(-1, self.head_dim)
        return torch.sigmoid(self.gate_proj(rows).reshape(text.shape))

    def _joint(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        context: TextContext,
        media_key_value: KeyValue,
        sees: Tensor,
    ) -> Tensor:
        """One softmax over the visible patches and the tokens so far: [b, q, a * d]."""
        mask = context.mask
        if mask is None:
            queries, keys = query.shape[2], key.shape[2]
            mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device)
            mask = mask.tril(diagonal=keys - queries)[None, None]
        mask = torch.cat([sees, mask.expand(*sees.shape[:3], -1)], dim=-1)
        media_key, media_value = media_key_value
        return attend(
            query,
            torch.cat([media_key, key], dim=2),
            torch.cat([media_value, value], dim=2),
            mask=_or_none(mask),
        )


def _or_none(mask: Tensor) -> Tensor | None:
    """Drop a mask that hides nothing: without one, torch's fastest kernels are allowed."""
    return None if mask.shape[2] == 1 and bool(mask.all()) else mask


class Owl3DecoderLayer(nn.Module):
    """Attention and MLP, each behind a norm; hyper layers give images the same input norm."""

    def __init__(self, config: Owl3Config, layer_index: int) -> None:
        super().__init__()
        self.layer_index = layer_index
        self.is_hyper = layer_index in config.hyper_layer_indices
        attention = Owl3HyperAttention if self.is_hyper else Owl3Attention
        self.self_attn = attention(config, layer_index)
        self.mlp = Owl3MLP(config)
        self.input_layernorm = Owl3RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = Owl3RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden_states: Tensor, context: TextContext, media: Media | None) -> Tensor:
        """Run the layer.

        Args:
            hidden_states: [b, q, h].
            context: of the tokens computed now.
            media: the batch's pictures, None where there are none.

        Returns:
            [b, q, h].
        """
        context = context.to(hidden_states.device)
        normed = self.input_layernorm(hidden_states)
        if self.is_hyper and media is not None:
            media = media.to(hidden_states.device)
            sees = media.visible(context.position_ids)
            mixed = self.self_attn(normed, context, self._media_heads(media), sees)
        else:
            mixed = self.self_attn(normed, context)
        hidden_states = hidden_states + mixed
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))

    def _media_heads(self, media: Media) -> KeyValue:
        """Keys and values of the patches: from the cache, or computed, and kept if wanted."""
        if media.cache is not None and self.layer_index in media.cache:
            return media.cache[self.layer_index]
        assert media.features is not None
        heads = self.self_attn.media_heads(self.input_layernorm(media.features), media)
        if media.cache is not None:
            media.cache[self.layer_index] = heads
        return heads


class Owl3Decoder(nn.Module):
    """Embedding, layers, final norm."""

    def __init__(self, config: Owl3Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            Owl3DecoderLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = Owl3RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False  # transformers sets it, and the function below

    def forward(
        self, hidden_states: Tensor, context: TextContext, media: Media | None
    ) -> list[Tensor]:
        """Run all layers.

        Returns:
            num_layers + 1 tensors [b, q, h]: the input of each layer, then the normed output.
        """
        steps = []
        for layer in self.layers:
            steps.append(hidden_states)
            if self.gradient_checkpointing and self.training:
                hidden_states = self._gradient_checkpointing_func(
                    layer.__call__, hidden_states, context, media
                )
            else:
                hidden_states = layer(hidden_states, context, media)
        return [*steps, self.norm(hidden_states)]


class Owl3CausalLM(nn.Module):
    """Decoder and output layer, under the published name language_model."""

    def __init__(self, config: Owl3Config) -> None:
        super().__init__()
        self.model = Owl3Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
