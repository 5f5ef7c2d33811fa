# SPDX-License-Identifier: Apache-2.0
"""Logits of the tokens that are kept, and their loss."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IGNORE_INDEX = -100
"""Label of a token that is not learned."""


def logits_and_loss(
    head: nn.Module,
    hidden_states: Tensor,
    labels: Tensor | None,
    logits_to_keep: int | Tensor,
    num_items: Tensor | int | None,
) -> tuple[Tensor, Tensor | None]:
    """Compute logits in the model's dtype, and the float32 loss of all of them.

    Args:
        head: the output layer.
        hidden_states: [b, q, h], normed.
        labels: [b, q], the tokens themselves, IGNORE_INDEX if not learned; None for no loss.
        logits_to_keep: number of last tokens, or indices of tokens; 0 keeps all.
        num_items: divisor of the summed loss; None for the learned tokens.

    Returns:
        [b, kept, v], and [] or None.

    Raises:
        ValueError: labels came for tokens whose logits are not kept.
    """
    kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
    logits = head(hidden_states[:, kept])
    if labels is None:
        return logits, None
    if logits.shape[1] != labels.shape[1]:
        raise ValueError("labels need all logits: leave logits_to_keep at 0.")
    targets = labels[:, 1:].flatten().to(logits.device)
    learned = targets != IGNORE_INDEX
    # Only learned rows are converted to float32, which saves memory.
    rows = logits[:, :-1].flatten(0, 1)[learned]
    rows = rows if rows.dtype == torch.float64 else rows.float()
    total = F.cross_entropy(rows, targets[learned], reduction="sum")
    count = learned.sum().clamp(min=1) if num_items is None else num_items
    return logits, total / (count.to(total.device) if isinstance(count, Tensor) else count)
