# SPDX-License-Identifier: Apache-2.0
"""From decoder width to the vocabulary: losses in training, logits for evaluation."""

from typing import Any

from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    gather_from_sequence_parallel_region,
    gather_from_tensor_model_parallel_region,
)
from torch import Tensor

from owl.data.samples import IGNORE_INDEX
from owl.model.loss import linear_cross_entropy


class OutputLayer(ColumnParallelLinear):
    """The language model's head, sharded over the vocabulary.

    The loss reads its weight without the linear layer's product. It does so in here, because
    `overlap_param_gather` waits for a module's weights when the module is called: read from
    outside, they could still be those of the last step.
    """

    def __init__(self, *args: Any, vocab_size: int, **kwargs: Any) -> None:
        super().__init__(*args, bias=False, gather_output=False, **kwargs)
        self.vocab_size = vocab_size

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        labels: Tensor | None,
        *,
        rows: Tensor | None = None,
        tied_weight: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of each supervised row and 0 elsewhere, or all logits.

        Args:
            hidden_states: [t, 1, h]; under sequence parallelism this rank's rows of it.
            labels: [t], IGNORE_INDEX where nothing is learned; None for logits.
            rows: [r] int64, the rows with a label; None to search for them.
            tied_weight: [v / tp, h] of the embedding, where this layer has none of its own.

        Returns:
            [t] losses, float32 or wider, or [t, v] logits; the same on every rank of the group.
        """
        weight = self.weight if tied_weight is None else tied_weight
        if labels is None:
            logits, _ = super().forward(hidden_states, weight=weight)
            logits = gather_from_tensor_model_parallel_region(logits, group=self.tp_group)
            return logits.squeeze(1)[:, : self.vocab_size]
        if self.sequence_parallel:
            # The loss gives every rank the full gradient, so each takes back its own rows.
            hidden_states = gather_from_sequence_parallel_region(
                hidden_states, tensor_parallel_output_grad=False, group=self.tp_group
            )
        if rows is None:
            rows = (labels != IGNORE_INDEX).nonzero().squeeze(1)
        losses = linear_cross_entropy(
            hidden_states.squeeze(1)[rows],
            weight,
            labels[rows],
            vocab_size=self.vocab_size,
            tp_group=self.tp_group,
        )
        return losses.new_zeros(len(labels)).index_copy(0, rows, losses)
