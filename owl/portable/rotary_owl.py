# SPDX-License-Identifier: Apache-2.0
"""Rotary positions, of text tokens and of tiles, and attention with grouped heads.

Letters: b rows of a batch, q tokens computed now, a heads, k key-value heads, d head width.
"""

from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache


@dataclass(frozen=True)
class Rotary:
    """Cosines and sines of some positions, each [b, 1, n, d]."""

    cos: Tensor
    sin: Tensor


def rotary(positions: Tensor, *, head_dim: int, theta: float, dtype: torch.dtype) -> Rotary:
    """Compute the cosines and sines of positions.

    Args:
        positions: [b, n] int64.
        head_dim: d, even.
        theta: base of the frequencies (1e6 in Qwen2).
        dtype: of the model. Angles are always float32 or wider: bfloat16 keeps 8
            significant bits, so positions above 256 would collide.
    """
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    # Computed here rather than kept in a buffer, which would be lost or rounded when a model is
    # created on the meta device, moved or cast, depending on the release of transformers.
    exponents = torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim
    frequencies = (1.0 / theta**exponents).to(wide)
    angles = positions[:, None, :, None].to(wide) * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return Rotary(angles.cos(), angles.sin())


def rotate(heads: Tensor, table: Rotary) -> Tensor:
    """Rotate [b, a, n, d] by their positions, half against half, in float32 or wider."""
    wide = at_least_float32(heads)
    first, second = wide.chunk(2, dim=-1)
    quarter_turn = torch.cat([-second, first], dim=-1)
    cos, sin = table.cos.to(heads.device), table.sin.to(heads.device)
    return (wide * cos + quarter_turn * sin).to(heads.dtype)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert half precision to float32; leave float32 and float64 as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


@dataclass(frozen=True)
class TextContext:
    """What every decoder layer needs to know about the tokens computed now."""

    rotary: Rotary
    position_ids: Tensor  # [b, q] int64, within the sample
    mask: Tensor | None  # [b, 1, q, keys] bool; None if plain causality is enough
    is_causal: bool  # only with mask=None and an empty cache
    cache: Cache | None
    num_keys: int  # tokens computed now or before; a static cache is longer
    padding: Tensor | None = None
    """[b, keys], 0 at padding, for attention other than torch's own; None without padding."""
    eager: bool = False
    """Compute attention step by step, for its weights, rather than by a fused function."""
    weights: list[Tensor] | None = None
    """Where layers append their weights on tokens, [b, a, q, keys]; None discards them."""
    media_weights: list[Tensor] | None = None
    """Likewise those on pictures, of the layers that attend to them."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments for an attention function that is not torch's own."""

    def keep(self, *, text: Tensor | None = None, media: Tensor | None = None) -> None:
        """Keep a layer's weights on tokens, or on pictures, if they were requested."""
        for kept, weights in ((self.weights, text), (self.media_weights, media)):
            if kept is not None and weights is not None:
                kept.append(weights)

    def to(self, device: torch.device, non_blocking: bool = False) -> "TextContext":
        """Move to the device of a layer (device_map spreads layers over several)."""
        return self if self.position_ids.device == device else move(self, device, non_blocking)


def move(value: Any, device: torch.device, non_blocking: bool) -> Any:
    """Move the tensors of a dataclass, and of dataclasses in it, to a device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=non_blocking)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    parts = {part.name: getattr(value, part.name) for part in fields(value)}
    return replace(value, **{n: move(part, device, non_blocking) for n, part in parts.items()})


def causal_mask(
    attention_mask: Tensor | None, queries: int, keys: int, device: torch.device
) -> Tensor | None:
    """Build the mask of the keys each token attends to, unless plain causality is enough.

    Args:
        attention_mask: [b, keys], 0 at padding on either side; None without padding.
        queries: tokens computed now, the last ones of the row.
        keys: tokens computed now or before.
        device: of the result.

    Returns:
        [b, 1, queries, keys] bool, or None: one new token, or a complete row, without padding.
    """
    if attention_mask is None:
        if queries in (1, keys):
            return None
        attention_mask = torch.ones(1, keys)
    row = torch.arange(keys - queries, keys, device=device)[:, None]
    column = torch.arange(keys, device=device)
    visible = (column <= row) & attention_mask[:, None, :].to(device).bool()
    # A pad attends to itself: a softmax over no key would be NaN, and NaN spreads.
    return (visible | (column == row))[:, None]


def attend(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None, is_causal: bool = False
) -> Tensor:
    """Attend with grouped heads through torch's fused attention.

    Args:
        query: [b, a, q, d].
        key: [b, k, n, d]; query head j reads key-value head j // (a / k).
        value: [b, k, n, d].
        mask: [b, 1, q, n] bool, True where a query sees a key; None sees all.
        is_causal: token i sees keys 0..i; without a mask only.

    Returns:
        [b, q, a * d], heads side by side.
    """
    groups = query.shape[1] // key.shape[1]
    if query.shape[2] == 1 and groups > 1:
        # One new token: the heads of a group become rows, so the keys (of all images) are not
        # copied for each head.
        heads = query.unflatten(1, (-1, groups)).squeeze(3)
        heads = F.scaled_dot_product_attention(heads, key, value, attn_mask=mask)
        return heads.flatten(1).unsqueeze(1)
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    heads = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=is_causal and query.shape[2] > 1
    )
    return heads.transpose(1, 2).flatten(2)


def attend_eager(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None, is_causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Compute what attend does step by step, in memory for [b, a, q, n] weights.

    Returns:
        [b, q, a * d], and the weights [b, a, q, n] in the dtype of the heads.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    if is_causal and query.shape[2] > 1:
        mask = scores.new_ones(scores.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = at_least_float32(scores).softmax(dim=-1).to(query.dtype)
    return (weights @ value).transpose(1, 2).flatten(2), weights
