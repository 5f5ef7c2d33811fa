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
        return torch.cat(
            [
                _attend(query[view.rows], key[view.rows], value[view.rows], is_causal=True)
                for view in pack.samples
            ]
        )

    def media(
        self, query: Tensor, media_key: Tensor, media_value: Tensor, pack: PackContext
    ) -> Tensor:
        """Attend to the patches of the visible tiles; rows that see none are zero."""
        pieces: list[Tensor] = []
        for view in pack.samples:
            pieces.extend(_media_pieces(query, media_key, media_value, view))
        return torch.cat(pieces)

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
        pieces: list[Tensor] = []
        for view in pack.samples:
            rows, keys = view.rows, view.keys
            if not view.visible_from:
                piece = _attend(query[rows], key[rows], value[rows], is_causal=True)
            else:
                piece = _attend(
                    query[rows],
                    torch.cat([media_key[keys], key[rows]]),
                    torch.cat([media_value[keys], value[rows]]),
                    mask=_joint_mask(view, query.device),
                )
            pieces.append(piece)
        return torch.cat(pieces)


def _media_pieces(
    query: Tensor, media_key: Tensor, media_value: Tensor, view: SampleView
) -> Iterable[Tensor]:
    """Cut a sample's rows into those that see no tile, some tiles, all tiles."""
    rows, end = query[view.rows], view.num_tokens
    first = min(view.visible_from[0], end) if view.visible_from else end
    last = min(view.visible_from[-1], end) if view.visible_from else end
    key, value = media_key[view.keys], media_value[view.keys]
    if first:
        yield torch.zeros_like(rows[:first])
    if last > first:
        yield _attend(rows[first:last], key, value, mask=_tile_mask(view, first, last, rows.device))
    if end > last:
        yield _attend(rows[last:], key, value)


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
    out = F.scaled_dot_product_attention(
        query.transpose(0, 1)[None],
        key.transpose(0, 1)[None],
        value.transpose(0, 1)[None],
        attn_mask=mask,
        is_causal=is_causal,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out[0].transpose(0, 1)
