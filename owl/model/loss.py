# SPDX-License-Identifier: Apache-2.0
"""Output layer and cross entropy in one, in chunks, over a sharded vocabulary.

The logits of one chunk are all that ever exists: 8,192 tokens times 151,936 words in float32 would
be 4.6 GiB. The backward pass computes them again from the hidden states. megatron-core's own loss
casts to float32 whatever it is given and overwrites float32 logits in place, so it is not used.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from owl.model.norm import at_least_float32

ROWS_PER_CHUNK = 1024
ALIGNED_WORDS = 128
"""Chunks are a multiple of it: GPUs multiply half-precision matrices of odd widths slowly."""


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
        rows_per_chunk: bounds memory: never do more logits exist than this many rows have.

    Returns:
        [r] losses, float32 or wider, the same on every rank of the group.
    """
    return _LinearCrossEntropy.apply(
        hidden_states, weight, labels, vocab_size, tp_group, rows_per_chunk
    )


class _LinearCrossEntropy(torch.autograd.Function):
    """Cut along the vocabulary, so that a weight's gradient is one product over all rows.

    Cut along the rows, it would be a sum over chunks, which half precision weights would need a
    float32 copy of the full output layer for (2.2 GB in the 7B model). The gradient of the hidden
    states is such a sum here, and small.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_states: Tensor,
        weight: Tensor,
        labels: Tensor,
        vocab_size: int,
        tp_group: dist.ProcessGroup,
        rows_per_chunk: int,
    ) -> Tensor:
        start = tp_group.rank() * len(weight)
        used = weight[: max(0, min(len(weight), vocab_size - start))]
        ctx.chunks = _chunks(len(used), len(labels), rows_per_chunk)
        ctx.start, ctx.used, ctx.tp_group = start, len(used), tp_group

        wide = torch.promote_types(hidden_states.dtype, torch.float32)
        highest = hidden_states.new_full((len(labels),), -torch.inf, dtype=wide)
        total, chosen = torch.zeros_like(highest), torch.zeros_like(highest)
        for chunk in ctx.chunks:
            logits = _logits(hidden_states, used[chunk])
            here, index = _labels_here(labels - start, chunk)
            chosen += torch.where(here, logits.gather(1, index).squeeze(1), 0)
            higher = highest.maximum(logits.amax(-1))
            total *= (highest - higher).exp()
            total += logits.sub_(higher[:, None]).exp_().sum(-1)
            highest = higher

        top = highest.clone()
        dist.all_reduce(top, dist.ReduceOp.MAX, group=tp_group)
        sums = torch.stack([total * (highest - top).exp(), chosen])
        dist.all_reduce(sums, group=tp_group)
        log_total = top + sums[0].log()
        ctx.save_for_backward(hidden_states, weight, labels, log_total)
        return log_total - sums[1]

    @staticmethod
    def backward(ctx: Any, grad_losses: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden_states, weight, labels, log_total = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        used = weight[: ctx.used]
        grad_hidden = torch.zeros_like(hidden_states, dtype=log_total.dtype)
        grad_weight = torch.empty_like(weight) if needs_weight else None
        for chunk in ctx.chunks:
            grad = _logits(hidden_states, used[chunk]).sub_(log_total[:, None]).exp_()
            here, index = _labels_here(labels - ctx.start, chunk)
            grad.scatter_add_(1, index, -here[:, None].to(grad.dtype))
            grad = grad.mul_(grad_losses[:, None]).to(weight.dtype)
            if needs_hidden:
                grad_hidden += grad @ used[chunk]
            if grad_weight is not None:
                torch.mm(grad.t(), hidden_states, out=grad_weight[chunk])
        if grad_weight is not None:
            grad_weight[ctx.used :] = 0
        if not needs_hidden:
            return None, grad_weight, None, None, None, None
        dist.all_reduce(grad_hidden, group=ctx.tp_group)
        return grad_hidden.to(hidden_states.dtype), grad_weight, None, None, None, None


def _chunks(vocabulary: int, rows: int, rows_per_chunk: int) -> list[slice]:
    """Cut a vocabulary evenly, so that no chunk's logits of all rows are more than allowed."""
    size = max(1, rows_per_chunk * vocabulary // max(1, rows))
    if size >= ALIGNED_WORDS:
        count = -(-vocabulary // (size - size % ALIGNED_WORDS))
        size = -(-vocabulary // (count * ALIGNED_WORDS)) * ALIGNED_WORDS
    return [slice(start, min(start + size, vocabulary)) for start in range(0, vocabulary, size)]


def _logits(hidden_states: Tensor, weight: Tensor) -> Tensor:
    """Compute [r, words] logits, new and in float32 or wider: free to be overwritten."""
    return at_least_float32(hidden_states @ weight.t())


def _labels_here(labels: Tensor, chunk: slice) -> tuple[Tensor, Tensor]:
    """Return which labels a chunk holds, [r] bool, and their index in it (else 0), [r, 1]."""
    here = (labels >= chunk.start) & (labels < chunk.stop)
    return here, torch.where(here, labels - chunk.start, 0)[:, None]
