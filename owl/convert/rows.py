# SPDX-License-Identifier: Apache-2.0
"""Which rows of which published tensors a weight of ours is made of.

Every re-layout moves whole rows, so a large weight converts in pieces: no more than one of them is
in memory, whatever the size of the weight.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from owl.checkpoint.tensor_spec import TensorSpec
from owl.families.owl3.published import Entry


@dataclass(frozen=True)
class RowSpan:
    """Rows that lie together in a published tensor, and together in our weight."""

    ours: int  # first row in our weight
    published: str  # name of the tensor
    first: int  # first row there
    rows: int

    def within(self, start: int, stop: int) -> "RowSpan | None":
        """Cut to the rows start:stop of our weight; None where there is nothing of them."""
        begin, end = max(self.ours, start), min(self.ours + self.rows, stop)
        if begin >= end:
            return None
        return RowSpan(begin, self.published, self.first + begin - self.ours, end - begin)


def row_runs(entry: Entry, shapes: Mapping[str, Sequence[int]]) -> list[RowSpan]:
    """Ask an entry's re-layout what it does to the numbers of rows.

    Args:
        entry: a line of the table.
        shapes: of the published tensors.

    Returns:
        Runs in the order of our rows, which they cover but for the padding of a vocabulary.
    """
    counts = [shapes[name][0] for name in entry.published]
    # One number is left out between tensors, so that no run goes on from one into the next.
    starts = [0, *accumulate(count + 1 for count in counts)]
    numbers = tuple(
        torch.arange(start, start + count) for start, count in zip(starts, counts, strict=False)
    )
    ours = entry.to_ours(numbers)
    begins = [0, *((ours.diff() != 1).nonzero().flatten() + 1).tolist()]
    return [
        _run(entry, starts, int(ours[begin]), begin, end)
        for begin, end in zip(begins, [*begins[1:], len(ours)], strict=True)
    ]


def _run(entry: Entry, starts: Sequence[int], number: int, begin: int, end: int) -> RowSpan:
    part = bisect_right(starts, number) - 1
    return RowSpan(begin, entry.published[part], number - starts[part], end - begin)


def runs_within(runs: Sequence[RowSpan], start: int, stop: int) -> list[RowSpan]:
    """Cut runs to the rows start:stop of our weight."""
    return [cut for run in runs if (cut := run.within(start, stop)) is not None]


def row_ranges(spec: TensorSpec, most: int) -> Iterator[tuple[int, int]]:
    """Cut a tensor into ranges of rows of at most `most` bytes, or of one row."""
    rows, step = spec.shape[0], max(1, most // spec.row_bytes)
    for start in range(0, rows, step):
        yield start, min(start + step, rows)
