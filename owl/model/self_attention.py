# SPDX-License-Identifier: Apache-2.0
"""Self-attention over packs, for the heads on this rank: the linear layers hold the collectives."""

from typing import Any

from megatron.core.transformer.attention import SelfAttention
from torch import Tensor, nn

from owl.model.attention.backend import AttentionBackend
from owl.model.media import PackContext
from owl.model.recompute import attend_in
from owl.model.rope import rotate


class CoreAttention(nn.Module):
    """Fills megatron-core's `core_attention` slot; holds no weights; the tower's has no backend."""

    def __init__(self, *, backend: AttentionBackend | None, **_: Any) -> None:
        super().__init__()
        self.backend = backend


class PackedSelfAttention(SelfAttention):
    """Qwen2 self-attention over a pack: samples do not see each other."""

    def forward(  # type: ignore[override]
        self, hidden_states: Tensor, *, packed_seq_params: PackContext, **_: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Attend within each sample.

        Args:
            hidden_states: [t, 1, h], normed (t over the tensor group under sequence parallelism).
            packed_seq_params: who sees what; megatron-core's name for what a pack needs.

        Returns:
            [t, 1, h], and the output bias (none in Qwen2).
        """
        pack = packed_seq_params
        query, key, value = self.text_heads(hidden_states, pack)
        attend = self.core_attention.backend.text
        heads = attend_in(self, lambda q, k, v: attend(q, k, v, pack), query, key, value)
        return self.linear_proj(heads.flatten(1)[:, None])

    def text_heads(self, hidden_states: Tensor, pack: PackContext) -> tuple[Tensor, Tensor, Tensor]:
        """Project to rotated queries [t, a, d] and keys, and values [t, k, d]."""
        query, key, value = (
            part.squeeze(1) for part in self.get_query_key_value_tensors(hidden_states)
        )
        return rotate(query, pack.text_rotary), rotate(key, pack.text_rotary), value
