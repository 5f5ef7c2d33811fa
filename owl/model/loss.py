# SPDX-License-Identifier: Apache-2.0
"""Output layer and cross entropy in one, in chunks of rows, over a sharded vocabulary.

The logits of one chunk are all that ever exists: 8,192 tokens times 151,936 words in float32 would
be 4.6 GiB. The backward pass computes them again from the hidden states. megatron-core's own loss
casts to float32 whatever it is given and overwrites float32 logits in place, so it is not used.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from owl.model.norm import at_least_float32

ROWS_PER_CHUNK = 1024


def linear_cross_entropy(
    hidden_states: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    vocab_size: int,
    tp_group: dist.ProcessGroup,
    rows_per_chunk: int = ROWS_PER_CHUNK,
) -> Tensor:
    """Compute -log softmax(hidden_states @ weight^T)[labels], row by row.

    Args:
        hidden_states: [r, h], the same on every rank of the tensor group.
        weight: [v / tp, h], this rank's rows of the output layer. Rows at or past `vocab_size`
            are padding and take no part.
        labels: [r] int64, all within the vocabulary.
        vocab_size: v without padding.
        tp_group: ranks that share the vocabulary.
        rows_per_chunk: rows whose logits exist at the same time.

    Returns:
        [r] losses, float32 or wider, the same on every rank of the group.
    """
    return _LinearCrossEntropy.apply(
        hidden_states, weight, labels, vocab_size, tp_group, rows_per_chunk
    )


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_states, weight, labels, vocab_size, tp_group, rows_per_chunk):  # type: ignore[no-untyped-def]
        start = tp_group.rank() * len(weight)
        used = max(0, min(len(weight), vocab_size - start))
        log_total = at_least_float32(hidden_states.new_empty(len(labels)))
        chosen = torch.empty_like(log_total)
        for rows in _chunks(len(labels), rows_per_chunk):
            logits = at_least_float32(hidden_states[rows] @ weight[:used].t())
            highest = logits.amax(-1) if used else log_total.new_full((len(logits),), -torch.inf)
            dist.all_reduce(highest, dist.ReduceOp.MAX, group=tp_group)
            total = (logits - highest[:, None]).exp().sum(-1)
            here, index = _labels_here(labels[rows], start, used)
            mine = logits[torch.arange(len(logits), device=logits.device), index] if used else total
            sums = torch.stack([total, torch.where(here, mine, 0)])
            dist.all_reduce(sums, group=tp_group)
            log_total[rows], chosen[rows] = highest + sums[0].log(), sums[1]
        ctx.save_for_backward(hidden_states, weight, labels, log_total)
        ctx.start, ctx.used = start, used
        ctx.tp_group, ctx.rows_per_chunk = tp_group, rows_per_chunk
        return log_total - chosen

    @staticmethod
    def backward(ctx, grad_losses):  # type: ignore[no-untyped-def]
        hidden_states, weight, labels, log_total = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        used_weight = weight[: ctx.used]
        grad_hidden = torch.zeros_like(hidden_states) if needs_hidden else None
        grad_weight = (
            at_least_float32(weight.new_empty(0)).new_zeros(weight.shape) if needs_weight else None
        )
        for rows in _chunks(len(labels), ctx.rows_per_chunk):
            logits = at_least_float32(hidden_states[rows] @ used_weight.t())
            grad = (logits - log_total[rows, None]).exp()
            here, index = _labels_here(labels[rows], ctx.start, ctx.used)
            if ctx.used:
                row = torch.arange(len(grad), device=grad.device)
                grad[row, index] -= here.to(grad.dtype)
            grad = (grad * grad_losses[rows, None]).to(weight.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = grad @ used_weight
            if grad_weight is not None:
                grad_weight[: ctx.used] += grad.t() @ hidden_states[rows]
        if grad_hidden is not None:
            dist.all_reduce(grad_hidden, group=ctx.tp_group)
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, None, None, None, None


def _chunks(rows: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _labels_here(labels: Tensor, start: int, used: int) -> tuple[Tensor, Tensor]:
    """Say which labels this rank's part of the vocabulary holds, and their index in it (else 0)."""
    here = (labels >= start) & (labels < start + used)
    return here, torch.where(here, labels - start, 0)
