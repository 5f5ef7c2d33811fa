# SPDX-License-Identifier: Apache-2.0
"""The three released ways to mix text and image attention inside a hyper layer.

    token_gate     7B-240728      gate from each head's own text output
    static_gate    1B/2B-241014   one learned gate vector
    joint_softmax  7B-241101      no gate: text and image keys share one softmax

Each works on the heads of this rank; a row that sees no tile keeps its text output exactly.
"""

from typing import Any, Protocol

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    set_tensor_model_parallel_attributes,
)
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor, nn

from owl.model.attention.backend import AttentionBackend
from owl.model.media import PackContext


class FusionBuilder(Protocol):
    """What a hyper layer's spec needs to make its fusion."""

    def __call__(
        self,
        *,
        config: TransformerConfig,
        heads_here: int,
        head_dim: int,
        pg_collection: ProcessGroupCollection,
    ) -> nn.Module:
        """Build the fusion for this rank's heads."""
        ...


class TokenGate(nn.Module):
    """fused = A (1 - g) + C g with g = sigmoid(W A_head + b), W shared by all heads (240728)."""

    def __init__(
        self,
        *,
        config: TransformerConfig,
        heads_here: int,
        head_dim: int,
        pg_collection: ProcessGroupCollection,
    ) -> None:
        super().__init__()
        self.tp_group = pg_collection.tp
        self.weight = nn.Parameter(torch.empty(head_dim, head_dim, dtype=config.params_dtype))
        self.bias = nn.Parameter(torch.zeros(head_dim, dtype=config.params_dtype))
        config.init_method(self.weight)

    def forward(
        self,
        attention: AttentionBackend,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        media_key: Tensor,
        media_value: Tensor,
        pack: PackContext,
    ) -> Tensor:
        """Return the fused heads, [t, a, d]."""
        text = attention.text(query, key, value, pack)
        media = attention.media(query, media_key, media_value, pack)
        # Every rank holds the full gate but applies it to its own heads only: the copy's backward
        # sums the gradients of all ranks' heads.
        weight = copy_to_tensor_model_parallel_region(self.weight, group=self.tp_group)
        bias = copy_to_tensor_model_parallel_region(self.bias, group=self.tp_group)
        gate = torch.sigmoid(text @ weight.t() + bias)
        return _mix(text, media, gate, pack)


class StaticGate(nn.Module):
    """fused = A (1 - g) + C g with g = sigmoid(learned vector [h]), sharded by heads (241014)."""

    def __init__(
        self,
        *,
        config: TransformerConfig,
        heads_here: int,
        head_dim: int,
        pg_collection: ProcessGroupCollection,
    ) -> None:
        super().__init__()
        self.tp_group = pg_collection.tp
        self.gate = nn.Parameter(torch.zeros(heads_here * head_dim, dtype=config.params_dtype))
        set_tensor_model_parallel_attributes(self.gate, True, 0, 1)

    def forward(
        self,
        attention: AttentionBackend,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        media_key: Tensor,
        media_value: Tensor,
        pack: PackContext,
    ) -> Tensor:
        """Return the fused heads, [t, a, d]."""
        text = attention.text(query, key, value, pack)
        media = attention.media(query, media_key, media_value, pack)
        gate = torch.sigmoid(self.gate.view(1, *text.shape[1:]))
        return _mix(text, media, gate, pack)

    def sharded_state_dict(
        self,
        prefix: str = "",
        sharded_offsets: tuple[tuple[int, int, int], ...] = (),
        metadata: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Describe the gate to dist_checkpointing: sharded along its only axis."""
        return make_sharded_tensors_for_checkpoint(
            self.state_dict(prefix="", keep_vars=True),
            prefix,
            {"gate": 0},
            sharded_offsets,
            tp_group=self.tp_group,
            dp_cp_group=(metadata or {})["dp_cp_group"],
        )


class JointSoftmax(nn.Module):
    """One softmax over the sample's visible patches and its tokens so far (241101)."""

    def __init__(
        self,
        *,
        config: TransformerConfig,
        heads_here: int,
        head_dim: int,
        pg_collection: ProcessGroupCollection,
    ) -> None:
        super().__init__()

    def forward(
        self,
        attention: AttentionBackend,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        media_key: Tensor,
        media_value: Tensor,
        pack: PackContext,
    ) -> Tensor:
        """Return the fused heads, [t, a, d]."""
        return attention.joint(query, key, value, media_key, media_value, pack)


def _mix(text: Tensor, media: Tensor, gate: Tensor, pack: PackContext) -> Tensor:
    """Mix by the gate where a token sees a tile; keep the text output exactly elsewhere."""
    mixed = text * (1 - gate) + media * gate
    return torch.where(pack.sees_media[:, None, None], mixed, text)
