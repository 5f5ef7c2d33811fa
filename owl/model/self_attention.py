# SPDX-License-Identifier: Apache-2.0
"""Self-attention over packs, for the heads on this rank: the linear layers hold the collectives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
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


@dataclass
class MediaAttentionSubmodules(SelfAttentionSubmodules):
    """The slots of self-attention, and one that projects media to keys and values."""

    linear_media_kv: Callable[..., nn.Module] | None = None  # [.., h] -> [.., 2 * k * d]


class MediaKeyValueAttention(PackedSelfAttention):
    """Self-attention with a second projection to keys and values, for media."""

    def __init__(
        self,
        config: TransformerConfig,
        submodules: MediaAttentionSubmodules,
        layer_number: int,
        attn_mask_type: AttnMaskType = AttnMaskType.padding,
        cp_comm_type: str | None = None,
        pg_collection: ProcessGroupCollection | None = None,
    ) -> None:
        super().__init__(
            config,
            submodules,
            layer_number,
            attn_mask_type,
            cp_comm_type=cp_comm_type,
            pg_collection=pg_collection,
        )
        assert submodules.linear_media_kv is not None
        # Rows are stored head by head, a head's key before its value, so that a rank's slice of
        # rows holds its own key-value heads completely.
        self.linear_media_kv = submodules.linear_media_kv(
            config.hidden_size,
            2 * self.kv_projection_size,
            config=config,
            init_method=config.init_method,
            gather_output=False,
            bias=config.add_qkv_bias,
            skip_bias_add=False,
            is_expert=False,
            tp_comm_buffer_name="media_kv",
            tp_group=self.pg_collection.tp,
        )

    def media_heads(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Project [n, 1, h] to keys, not rotated yet, and to values, each [n, k, d]."""
        merged, _ = self.linear_media_kv(features)
        heads = merged.squeeze(1).unflatten(-1, (self.num_query_groups_per_partition, 2, -1))
        key, value = heads.unbind(dim=2)
        return key, value
