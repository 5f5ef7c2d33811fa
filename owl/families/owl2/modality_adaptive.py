# SPDX-License-Identifier: Apache-2.0
"""The modality-adaptive module of mPLUG-Owl2 (arXiv 2311.04257, section 3.2; names as released).

In every decoder layer the two norms and the projections to keys and values exist twice, once for
rows of text and once for rows that hold vectors of a picture; all else is shared. Both copies are
evaluated on every row and each row takes its own, so that a pack of text alone gives the media
copies gradients of zero instead of none: no rank waits for a gradient that never comes.
"""

from typing import Any

import torch
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor, nn

from owl.model.media import PackContext
from owl.model.norm import root_mean_square_normed
from owl.model.recompute import attend_in
from owl.model.rope import rotate
from owl.model.self_attention import MediaKeyValueAttention


class ModalityAdaptiveNorm(nn.Module):
    """RMSNorm with a weight for rows of text and another for rows of media."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.text = _Scale(config, hidden_size)
        self.media = _Scale(config, hidden_size)

    def forward(self, hidden_states: Tensor, is_media: Tensor) -> Tensor:
        """Normalise the last dimension of [t, 1, h]; is_media is [t] bool."""
        normed = root_mean_square_normed(hidden_states, self.eps)
        return torch.where(is_media[:, None, None], self.media(normed), self.text(normed))


class _Scale(nn.Module):
    """A weight for each element of a row.

    A module, since `overlap_param_gather` waits for a module's weights when the module is called.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        # Each rank of a tensor group then sees its rows only: Megatron adds the gradients up.
        self.weight.sequence_parallel = config.sequence_parallel

    def forward(self, normed: Tensor) -> Tensor:
        """Scale [..., h]."""
        return self.weight * normed


class ModalityAdaptiveAttention(MediaKeyValueAttention):
    """Causal self-attention in which text and media have keys and values of their own."""

    publishes_media_keys_alone = True  # k_proj.multiway.1 and v_proj.multiway.1, for adapters

    def forward(  # type: ignore[override]
        self, hidden_states: Tensor, *, packed_seq_params: PackContext, **_: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Attend within each sample.

        Args:
            hidden_states: [t, 1, h], normed (t over the tensor group under sequence parallelism).
            packed_seq_params: which rows hold media.

        Returns:
            [t, 1, h], and the output bias (none in LLaMA).
        """
        pack = packed_seq_params
        query, key, value = (
            part.squeeze(1) for part in self.get_query_key_value_tensors(hidden_states)
        )
        media_key, media_value = self.media_heads(hidden_states)
        is_media = pack.is_media[:, None, None]
        query = rotate(query, pack.text_rotary)
        key = rotate(torch.where(is_media, media_key, key), pack.text_rotary)
        value = torch.where(is_media, media_value, value)
        attend = self.core_attention.backend.text
        heads = attend_in(self, lambda q, k, v: attend(q, k, v, pack), query, key, value)
        return self.linear_proj(heads.flatten(1)[:, None])


class ModalityAdaptiveLayer(TransformerLayer):
    """A decoder layer whose norms are told which rows hold media."""

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        *,
        packed_seq_params: PackContext,
        context: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Run the layer.

        Args:
            hidden_states: [t, 1, h] (this rank's rows under sequence parallelism).
            packed_seq_params: which rows hold media.
            context: what megatron-core hands from layer to layer; not read.

        Returns:
            [t, 1, h], and `context`.
        """
        is_media = self._rows_here(packed_seq_params.is_media)
        attended = self.self_attention(
            self.input_layernorm(hidden_states, is_media), packed_seq_params=packed_seq_params
        )
        add = self.self_attn_bda(self.training, self.config.bias_dropout_fusion)
        hidden_states = add(attended, hidden_states, self.hidden_dropout)
        mixed = self.mlp(self.pre_mlp_layernorm(hidden_states, is_media))
        add = self.mlp_bda(self.training, self.config.bias_dropout_fusion)
        return add(mixed, hidden_states, self.hidden_dropout), context

    def _rows_here(self, rows: Tensor) -> Tensor:
        """Cut [t] to the rows that this rank holds between linear layers."""
        if not self.config.sequence_parallel:
            return rows
        group = self.pg_collection.tp
        return rows.chunk(group.size())[group.rank()]
