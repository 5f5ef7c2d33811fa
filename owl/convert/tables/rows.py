# SPDX-License-Identifier: Apache-2.0
"""Which rows of which published tensors a training weight is made of.

Every re-layout moves complete rows, so a large weight is converted in pieces, of which one is in
memory at a time.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from owl.checkpoint.tensor_spec import TensorSpec
from owl.convert.tables.table import Entry


@dataclass(frozen=True)
class RowSpan:
    """Rows that are contiguous both in a published tensor and in the training weight."""

    ours: int  # first row in the training weight
    published: str  # name of the tensor
    first: int  # first row there
    rows: int

    def within(self, start: int, stop: int) -> "RowSpan | None":
        """Return the part in rows start:stop of the training weight; None where there is none."""
        begin, end = max(self.ours, start), min(self.ours + self.rows, stop)
        if begin >= end:
            return None
        return RowSpan(begin, self.published, self.first + begin - self.ours, end - begin)


def row_spans(entry: Entry) -> list[RowSpan]:
    """Find the rows that an entry's re-layout moves, by applying it to row numbers.

    Returns:
        Spans in the order of the weight's rows; they cover all but the padding of a vocabulary.
    """
    counts = [shape[0] for shape in entry.shapes]
    # One number is left out between tensors, so that no span extends from one into the next.
    starts = [0, *accumulate(count + 1 for count in counts)]
    numbers = tuple(
        torch.arange(start, start + count) for start, count in zip(starts, counts, strict=False)
    )
    ours = entry.to_ours(numbers)
    begins = [0, *((ours.diff() != 1).nonzero().flatten() + 1).tolist()]
    spans = []
    for begin, end in zip(begins, [*begins[1:], len(ours)], strict=True):
        number = int(ours[begin])
        part = bisect_right(starts, number) - 1
        spans.append(RowSpan(begin, entry.published[part], number - starts[part], end - begin))
    return spans


def spans_within(spans: Sequence[RowSpan], start: int, stop: int) -> list[RowSpan]:
    """Return the parts of spans in rows start:stop of the training weight."""
    return [cut for span in spans if (cut := span.within(start, stop)) is not None]


def row_ranges(spec: TensorSpec, most: int) -> Iterator[tuple[int, int]]:
    """Cut a tensor into ranges of rows of at most `most` bytes, or of one row."""
    rows, step = spec.shape[0], max(1, most // spec.row_bytes)
    for start in range(0, rows, step):
        yield start, min(start + step, rows)
