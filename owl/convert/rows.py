# SPDX-License-Identifier: Apache-2.0
"""Which rows of which published tensors a weight of ours is made of.

Every re-layout moves whole rows, so a large weight converts in pieces: no more than one of them is
in memory, whatever the size of the weight.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from owl.convert.names import Entry


@dataclass(frozen=True)
class Run:
    """Rows that lie together in a published tensor, and together in our weight."""

    ours: int  # first row in our weight
    published: str  # name of the tensor
    first: int  # first row there
    rows: int

    def within(self, start: int, stop: int) -> "Run | None":
        """Cut to the rows start:stop of our weight; None where there is nothing of them."""
        begin, end = max(self.ours, start), min(self.ours + self.rows, stop)
        if begin >= end:
            return None
        return Run(begin, self.published, self.first + begin - self.ours, end - begin)


def row_runs(entry: Entry, shapes: Mapping[str, Sequence[int]]) -> list[Run]:
    """Ask an entry's re-layout what it does to the numbers of rows.

    Args:
        entry: a line of the table.
        shapes: of the published tensors.

    Returns:
        Runs in the order of our rows, which they cover but for the padding of a vocabulary.
    """
    counts = [shapes[name][0] for name in entry.published]
    starts = [0, *accumulate(counts)]
    numbers = torch.arange(starts[-1])
    ours = entry.to_ours(numbers.split(counts))
    is_new = torch.ones_like(ours, dtype=torch.bool)
    is_new[1:] = (ours.diff() != 1) | torch.isin(ours[1:], torch.tensor(starts))
    return list(_runs(entry, ours, is_new.nonzero().flatten().tolist(), starts))


def _runs(
    entry: Entry, ours: torch.Tensor, begins: Sequence[int], starts: Sequence[int]
) -> Iterator[Run]:
    for begin, end in zip(begins, [*begins[1:], len(ours)], strict=True):
        number = int(ours[begin])
        part = max(i for i, start in enumerate(starts[:-1]) if start <= number)
        yield Run(begin, entry.published[part], number - starts[part], end - begin)


def row_ranges(shape: Sequence[int], nbytes: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut a tensor of `nbytes` into ranges of rows of at most `most` bytes, or of one row."""
    rows = shape[0]
    step = max(1, most * rows // max(nbytes, 1))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)
