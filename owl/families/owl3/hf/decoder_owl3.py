# SPDX-License-Identifier: Apache-2.0
"""The Qwen2 decoder with hyper-attention layers, in plain torch, under the published names.

Letters: b rows, q tokens computed now, a heads, k key-value heads, d head width, h hidden size,
M most tiles of a row, p patches of a tile.
"""

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from owl.families.owl3.hf.configuration_owl3 import Owl3Config
from owl.families.owl3.hf.media_owl3 import KeyValue, Media
from owl.portable.blocks_owl import OwlAttention, OwlMLP, OwlRMSNorm
from owl.portable.rotary_owl import TextContext, attend, attend_eager, rotary, rotate


class Owl3HyperAttention(OwlAttention):
    """Self-attention whose queries also attend to the images that precede them (HATB).

    One key-value projection for all patches of all images; rotary positions on keys, one per tile
    (MI-RoPE); three published ways to combine both (config.fusion).
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
        visible: Tensor | None = None,
    ) -> Tensor:
        """Attend to the text so far, and to the visible patches if there are pictures.

        Called with and without pictures, always through __call__: accelerate loads the weights of
        an offloaded layer (the gate among them) only then.

        Args:
            hidden_states: [b, q, h], normed.
            context: of the text.
            media_key_value: [b, k, M * p, d] each; None if no row has a picture.
            visible: [b, 1, q, M * p] bool, which patches each token sees.

        Returns:
            [b, q, h].
        """
        if media_key_value is None or visible is None:
            return super().forward(hidden_states, context)
        heads = self.text_heads(hidden_states, context)
        if self.fusion == "joint_softmax":
            return self.o_proj(self._joint(*heads, context, media_key_value, visible))
        text = self.attend_to_text(*heads, context)
        sees_any = visible.any(dim=-1, keepdim=True)  # [b, 1, q, 1]
        # A token that sees no patch attends to all of them, and the result is discarded below: a
        # softmax over no key would be NaN, also in the gradient.
        if context.eager:
            images, weights = attend_eager(heads[0], *media_key_value, mask=visible | ~sees_any)
            context.keep(media=weights * sees_any)
        else:
            images = attend(heads[0], *media_key_value, mask=_or_none(visible | ~sees_any))
        gate = self._gate(text)
        return self.o_proj(torch.where(sees_any[:, 0], text * (1 - gate) + images * gate, text))

    def media_heads(self, features: Tensor, media: Media) -> KeyValue:
        """Project normed features [b, M * p, h] to rotated keys and values [b, k, M * p, d]."""
        # Each head's key is stored before its value, head after head.
        merged = self.v_kv_proj(features).unflatten(-1, (self.num_kv_heads, 2, self.head_dim))
        key, value = (part.transpose(1, 2) for part in merged.unbind(dim=3))
        table = rotary(
            media.position.repeat_interleave(media.patches, dim=1),
            head_dim=self.head_dim,
            theta=self.rope_theta,
            dtype=features.dtype,
        )
        return rotate(key, table), value

    def _gate(self, text: Tensor) -> Tensor:
        """Compute the weight of the image side, 0..1, for [b, q, a * d]."""
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
        visible: Tensor,
    ) -> Tensor:
        """Take one softmax over the visible patches and the tokens so far: [b, q, a * d]."""
        mask = context.mask
        if mask is None:
            queries, keys = query.shape[2], key.shape[2]
            mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device)
            mask = mask.tril(diagonal=keys - queries)[None, None]
        mask = torch.cat([visible, mask.expand(*visible.shape[:3], -1)], dim=-1)
        media_key, media_value = media_key_value
        key, value = torch.cat([media_key, key], dim=2), torch.cat([media_value, value], dim=2)
        if not context.eager:
            return attend(query, key, value, mask=_or_none(mask))
        heads, weights = attend_eager(query, key, value, mask=mask)
        patches = media_key.shape[2]
        context.keep(text=weights[..., patches:], media=weights[..., :patches])
        return heads


def _or_none(mask: Tensor) -> Tensor | None:
    """Drop a mask that hides nothing: without one, torch's fastest kernels are allowed."""
    if mask.shape[2] > 1 or torch.compiler.is_compiling():
        return mask
    return None if bool(mask.all()) else mask


class Owl3DecoderLayer(GradientCheckpointingLayer):
    """Attention and MLP, each after a norm; hyper layers apply their input norm to images too."""

    def __init__(self, config: Owl3Config, layer_index: int) -> None:
        super().__init__()
        self.layer_index = layer_index
        self.is_hyper = layer_index in config.hyper_layer_indices
        attention = Owl3HyperAttention if self.is_hyper else OwlAttention
        self.self_attn = attention(config, layer_index)
        self.mlp = OwlMLP(config)
        self.input_layernorm = OwlRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = OwlRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden_states: Tensor, context: TextContext, media: Media | None) -> Tensor:
        """Run the layer.

        Args:
            hidden_states: [b, q, h].
            context: of the tokens computed now.
            media: the batch's pictures, None if there are none.

        Returns:
            [b, q, h].
        """
        context = context.to(hidden_states.device)
        normed = self.input_layernorm(hidden_states)
        if self.is_hyper and media is not None:
            media = media.to(hidden_states.device)
            visible = media.visible(context.position_ids)
            mixed = self.self_attn(normed, context, self._media_heads(media), visible)
        else:
            mixed = self.self_attn(normed, context)
        hidden_states = hidden_states + mixed
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))

    def _media_heads(self, media: Media) -> KeyValue:
        """Take keys and values of the patches from the cache, or compute and maybe cache them."""
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
        self.norm = OwlRMSNorm(config.hidden_size, config.rms_norm_eps)

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
            hidden_states = layer(hidden_states, context, media)
        return [*steps, self.norm(hidden_states)]


class Owl3CausalLM(nn.Module):
    """Decoder and output layer, under the published name language_model."""

    _supports_sdpa = True  # read by transformers, as is config

    def __init__(self, config: Owl3Config) -> None:
        super().__init__()
        self.config = config
        self.model = Owl3Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
