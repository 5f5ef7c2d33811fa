# SPDX-License-Identifier: Apache-2.0
"""Attention sample by sample through torch's scaled_dot_product_attention.

No mask ever spans two samples, so memory grows with the sum over samples, not with tokens x
patches of the pack. Inside a sample, rows at or after its last tile see every tile: they need no
mask at all, and are most of the rows where pictures come first.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from owl.model.media import PackContext, SampleView


class PerSampleAttention:
    """The path for CPUs, and for GPUs without a compiler."""

    def text(self, query: Tensor, key: Tensor, value: Tensor, pack: PackContext) -> Tensor:
        """Attend causally to the tokens of the same sample."""
        samples = zip(*(_by_rows(part, pack) for part in (query, key, value)), strict=True)
        return torch.cat([_attend(*sample, is_causal=True) for sample in samples])

    def media(
        self, query: Tensor, media_key: Tensor, media_value: Tensor, pack: PackContext
    ) -> Tensor:
        """Attend to the patches of the visible tiles; rows that see none are zero."""
        keys_and_values = (_by_keys(part, pack) for part in (media_key, media_value))
        samples = zip(pack.samples, _by_rows(query, pack), *keys_and_values, strict=True)
        return torch.cat([piece for sample in samples for piece in _media_pieces(*sample)])

    def joint(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        media_key: Tensor,
        media_value: Tensor,
        pack: PackContext,
    ) -> Tensor:
        """Attend to visible patches and tokens under one softmax."""
        text = (_by_rows(part, pack) for part in (query, key, value))
        media = (_by_keys(part, pack) for part in (media_key, media_value))
        samples = zip(pack.samples, *text, *media, strict=True)
        return torch.cat([_joint_piece(*sample) for sample in samples])


def _by_rows(part: Tensor, pack: PackContext) -> tuple[Tensor, ...]:
    """Cut [t, ..] by sample. Split, since each slice's gradient would be as long as the pack."""
    return part.split([view.num_tokens for view in pack.samples])


def _by_keys(part: Tensor, pack: PackContext) -> tuple[Tensor, ...]:
    """Cut [m * p, ..] by sample."""
    return part.split([view.keys.stop - view.keys.start for view in pack.samples])


def _media_pieces(view: SampleView, query: Tensor, key: Tensor, value: Tensor) -> Iterable[Tensor]:
    """Cut a sample's rows into those that see no tile, some tiles, all tiles."""
    end = view.num_tokens
    first = min(view.visible_from[0], end) if view.visible_from else end
    last = min(view.visible_from[-1], end) if view.visible_from else end
    if first:
        yield torch.zeros_like(query[:first])
    if last > first:
        mask = _tile_mask(view, first, last, query.device)
        yield _attend(query[first:last], key, value, mask=mask)
    if end > last:
        yield _attend(query[last:], key, value)


def _joint_piece(
    view: SampleView,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    media_key: Tensor,
    media_value: Tensor,
) -> Tensor:
    """Attend from a sample's tokens to its patches and to its tokens."""
    if not view.visible_from:
        return _attend(query, key, value, is_causal=True)
    keys, values = torch.cat([media_key, key]), torch.cat([media_value, value])
    return _attend(query, keys, values, mask=_joint_mask(view, query.device))


def _tile_mask(view: SampleView, start: int, stop: int, device: torch.device) -> Tensor:
    """[stop - start, m * p] bool: which patches the sample's tokens start..stop see."""
    token = torch.arange(start, stop, device=device)
    visible_from = torch.tensor(view.visible_from, device=device)
    return (token[:, None] >= visible_from[None, :]).repeat_interleave(view.patches, dim=1)


def _joint_mask(view: SampleView, device: torch.device) -> Tensor:
    """[t, m * p + t] bool: the sample's patches by position, then its tokens causally."""
    length = view.num_tokens
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return torch.cat([_tile_mask(view, 0, length, device), causal], dim=1)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    """Attend from [t, a, d] to [n, k, d] under a mask that leaves no row empty."""
    if mask is not None and query.is_cuda:
        # The kernel that takes a mask without holding all scores knows no grouped heads.
        group = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(group, dim=1) for part in (key, value))
    out = F.scaled_dot_product_attention(
        query.transpose(0, 1)[None],
        key.transpose(0, 1)[None],
        value.transpose(0, 1)[None],
        attn_mask=mask,
        is_causal=is_causal,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out[0].transpose(0, 1)
