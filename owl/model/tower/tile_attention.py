# SPDX-License-Identifier: Apache-2.0
"""Self-attention of the vision tower: every patch of a tile sees every patch of that tile."""

from typing import Any

import torch.nn.functional as F
from megatron.core.transformer.attention import SelfAttention
from torch import Tensor

from owl.model.recompute import attend_in


class TileSelfAttention(SelfAttention):
    """SigLIP attention, tiles along the batch dimension, without positions or mask."""

    def forward(  # type: ignore[override]
        self, hidden_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Attend within each tile.

        Args:
            hidden_states: [p, m, h], normed.

        Returns:
            [p, m, h] without the output bias, and that bias.
        """
        # [p, m, a, d] -> [m, a, p, d]
        query, key, value = (
            part.permute(1, 2, 0, 3) for part in self.get_query_key_value_tensors(hidden_states)
        )
        heads = attend_in(self, F.scaled_dot_product_attention, query, key, value)
        return self.linear_proj(heads.permute(2, 0, 1, 3).flatten(2))
