# SPDX-License-Identifier: Apache-2.0
"""Attention with dense masks over the entire pack: slow and plain, the numerical reference."""

import torch
from torch import Tensor

from owl.model.media import PackContext


class ReferenceAttention:
    """Scores, mask, softmax, weighted sum; nothing clever."""

    def text(self, query: Tensor, key: Tensor, value: Tensor, pack: PackContext) -> Tensor:
        """Attend causally to the tokens of the same sample."""
        return _attend(query, key, value, pack.text_visibility())

    def media(
        self, query: Tensor, media_key: Tensor, media_value: Tensor, pack: PackContext
    ) -> Tensor:
        """Attend to the patches of the visible tiles; rows that see none are zero."""
        visible = pack.media_visibility().repeat_interleave(pack.patches, dim=1)
        return _attend(query, media_key, media_value, visible)

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
        media_visible = pack.media_visibility().repeat_interleave(pack.patches, dim=1)
        visible = torch.cat([media_visible, pack.text_visibility()], dim=1)
        return _attend(query, torch.cat([media_key, key]), torch.cat([media_value, value]), visible)


def _attend(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """Attend under a [t, n] mask; a row that sees nothing gives zero, not NaN."""
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    scores = torch.einsum("tad,nad->atn", query, key) * query.shape[-1] ** -0.5
    scores = scores.masked_fill(~visible, -torch.inf)
    highest = scores.amax(-1, keepdim=True) if scores.shape[-1] else scores.new_zeros(())
    weights = (scores - highest.clamp(min=torch.finfo(scores.dtype).min)).exp()
    total = weights.sum(-1, keepdim=True)
    weights = weights / torch.where(total == 0, 1.0, total)
    return torch.einsum("atn,nad->tad", weights, value)
