# SPDX-License-Identifier: Apache-2.0
"""Attention over a pack: one interface, several backends that give the same numbers.

All three calls take heads of this rank, flat over the pack, and grouped-query keys as they are
(`k` divides `a`; query head j reads key-value head j // (a / k)):

    query [t, a, d]   key, value [t, k, d]   media_key, media_value [m * p, k, d]

and return [t, a, d].
"""

from functools import cache
from typing import Protocol

from torch import Tensor

from owl.config.run import AttentionKind
from owl.model.media import PackContext


class AttentionBackend(Protocol):
    """Scaled dot-product attention under the visibility of a PackContext."""

    def text(self, query: Tensor, key: Tensor, value: Tensor, pack: PackContext) -> Tensor:
        """Attend causally to the tokens of the same sample."""
        ...

    def media(
        self, query: Tensor, media_key: Tensor, media_value: Tensor, pack: PackContext
    ) -> Tensor:
        """Attend to the patches of the visible tiles; rows that see none are zero."""
        ...

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
        ...


@cache
def attention_backend(kind: AttentionKind) -> AttentionBackend:
    """Build the backend that `model.attention` names: one for all layers, which share its masks."""
    if kind is AttentionKind.reference:
        from owl.model.attention.reference import ReferenceAttention

        return ReferenceAttention()
    if kind is AttentionKind.lse_merge:
        from owl.model.attention.lse_merge import LseMergeAttention

        return LseMergeAttention()
    if kind is AttentionKind.flex:
        from owl.model.attention.flex import FlexAttention

        return FlexAttention()
    from owl.model.attention.per_sample import PerSampleAttention

    return PerSampleAttention()
