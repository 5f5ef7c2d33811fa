# SPDX-License-Identifier: Apache-2.0
"""Hyper attention: self-attention that also looks at images.

Written for "the heads on this rank": the linear layers hold the collectives.
"""

from dataclasses import dataclass
from typing import Any

from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor

from owl.families.owl3.fusion import FusionBuilder
from owl.model.media import PackContext
from owl.model.recompute import attend_in
from owl.model.rope import rotate
from owl.model.self_attention import MediaAttentionSubmodules, MediaKeyValueAttention


@dataclass
class HyperAttentionSubmodules(MediaAttentionSubmodules):
    """The slots of hyper attention: those of self-attention, plus the image side."""

    fusion: FusionBuilder | None = None


class HyperAttention(MediaKeyValueAttention):
    """Self-attention whose queries also read the images that precede them (HATB).

    The image side shares the layer's input norm with the text (HyperAttentionLayer applies it),
    has its own key-value projection, and carries one rotary position per tile (MI-RoPE) on keys.
    """

    def __init__(
        self,
        config: TransformerConfig,
        submodules: HyperAttentionSubmodules,
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
        assert submodules.fusion is not None
        self.fusion = submodules.fusion(
            config=config,
            heads_here=self.num_attention_heads_per_partition,
            head_dim=self.hidden_size_per_attention_head,
            pg_collection=self.pg_collection,
        )

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        *,
        media_features: Tensor,
        packed_seq_params: PackContext,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend within each sample, to its text and to its visible images.

        Args:
            hidden_states: [t, 1, h], normed.
            media_features: [m * p, 1, h], normed by the same norm.
            packed_seq_params: who sees what.

        Returns:
            [t, 1, h], and the output bias (none in Qwen2).
        """
        pack = packed_seq_params
        query, key, value = self.text_heads(hidden_states, pack)
        media_key, media_value = self._media_heads(media_features, pack)
        backend = self.core_attention.backend

        def attend(*heads: Tensor) -> Tensor:
            attended: Tensor = self.fusion(backend, *heads, pack)
            if pack.shows_media:
                return attended
            # Adds nothing, but gives the image side its (zero) gradients also in a pack where no
            # token sees a tile, so that no rank waits for a gradient that never comes. In here,
            # since what is recomputed has to depend on something that learns.
            *_, media_key, media_value = heads
            return attended + media_key[:0].sum() + media_value[:0].sum()

        heads = attend_in(self, attend, query, key, value, media_key, media_value)
        return self.linear_proj(heads.flatten(1)[:, None])

    def _media_heads(self, media_features: Tensor, pack: PackContext) -> tuple[Tensor, Tensor]:
        """Project patches to rotated keys and to values, each [m * p, k, d]."""
        patches = len(pack.media_position) * pack.patches  # without rows added to share them out
        key, value = (part[:patches] for part in self.media_heads(media_features))
        return rotate(key, pack.patch_rotary), value


class HyperAttentionLayer(TransformerLayer):
    """A decoder layer that hands image features (`context`) to its attention, normed as the text.

    Only the attention half differs from megatron-core's layer: its input norm serves both.
    """

    def _forward_attention(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        context: Tensor,
        packed_seq_params: PackContext,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        """Run the attention half of the layer.

        Args:
            hidden_states: [t, 1, h].
            context: [m * p, 1, h] projected image features, the same in every layer.
            packed_seq_params: who sees what.

        Returns:
            hidden_states after the residual, and `context` unchanged.
        """
        # The norm reads its input twice. Behind a node of its own, a layer adds one gradient to the
        # features' sum, in the same order whether it is recomputed or not.
        media_features = context.view_as(context)
        attended = self.self_attention(
            self.input_layernorm(hidden_states),
            media_features=self.input_layernorm(media_features),
            packed_seq_params=packed_seq_params,
        )
        add = self.self_attn_bda(self.training, self.config.bias_dropout_fusion)
        return add(attended, hidden_states, self.hidden_dropout), context
