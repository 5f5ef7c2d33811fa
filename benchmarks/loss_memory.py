# SPDX-License-Identifier: Apache-2.0
"""Peak memory of output layer and loss as rows and vocabulary grow together.

    python -m benchmarks.loss_memory

Forward and backward in float32 on a CPU. `dense` is what a plain model does: all logits, then
torch's cross entropy. `ours` is owl/model/loss.py with an output layer that learns, and with a
frozen one (stage 1). Exits non-zero when memory does not grow as claimed.
"""

import sys
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.peak_bytes import growths, peak_bytes, table
from owl.config.run import DeviceKind, ParallelConfig
from owl.mcore.process_groups import process_groups
from owl.model.loss import linear_cross_entropy

SIZES = ((512, 4096), (1024, 8192), (2048, 16384))  # rows, words
WIDTH, ROWS_PER_CHUNK = 64, 64
LINEAR, QUADRATIC = 2.2, 3.5
"""Doubling both may cost ours up to the first factor; the dense way costs at least the second."""

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def main(sizes: Sequence[tuple[int, int]] = SIZES, rows_per_chunk: int = ROWS_PER_CHUNK) -> int:
    """Print the table and what grows how; return the exit status."""
    with process_groups(ParallelConfig(device=DeviceKind.cpu), alone=True) as groups:

        def ours(hidden_states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
            return linear_cross_entropy(
                hidden_states,
                weight,
                labels,
                vocab_size=len(weight),
                tp_group=groups.collection.tp,
                rows_per_chunk=rows_per_chunk,
            )

        ways = {
            "dense": [peak(dense, *size, frozen=False) for size in sizes],
            "ours": [peak(ours, *size, frozen=False) for size in sizes],
            "ours, frozen": [peak(ours, *size, frozen=True) for size in sizes],
        }
    print(f"output layer and loss, width {WIDTH}, forward and backward: peak bytes of tensors")
    header = ["rows", "words", "all logits MiB", *(f"{way} MiB" for way in ways)]
    peaks = zip(*ways.values(), strict=True)
    rows = [(r, v, 4 * r * v, *p) for (r, v), p in zip(sizes, peaks, strict=True)]
    print(table(header, rows))
    verdict = 0
    for way, measured in ways.items():
        factors = growths(measured)
        holds = min(factors) >= QUADRATIC if way == "dense" else max(factors) <= LINEAR
        verdict |= not holds
        print(
            f"{way:<12} x {', '.join(f'{f:.2f}' for f in factors)} when rows and words double"
            f"{'' if holds else ': NOT as claimed'}"
        )
    return verdict


def dense(hidden_states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Compute the losses from all logits."""
    return F.cross_entropy(hidden_states @ weight.t(), labels, reduction="none")


def peak(loss: Loss, rows: int, words: int, *, frozen: bool) -> int:
    """Measure one way at one size, beyond its inputs."""
    hidden_states = torch.randn(rows, WIDTH, requires_grad=True)
    weight = torch.randn(words, WIDTH, requires_grad=not frozen)
    labels = torch.randint(0, words, (rows,))
    return peak_bytes(lambda: loss(hidden_states, weight, labels).sum().backward())


if __name__ == "__main__":
    sys.exit(main())
