# SPDX-License-Identifier: Apache-2.0
"""Which tiles a sample's rows see, as rectangles: each tile adds a step, and no step needs a mask.

rows         tile 0   tile 1   tile 2
before 0
0 .. 1       xxxxxx
1 .. 2       xxxxxxxxxxxxxxx
2 .. end     xxxxxxxxxxxxxxxxxxxxxxxx
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from owl.model.media import SampleView


@dataclass(frozen=True, slots=True)
class Step:
    """Rows that all see the same patches, and only those."""

    rows: slice  # of the packed row
    keys: slice  # of the flattened patches [m * p]


def media_steps(view: SampleView) -> Iterator[Step]:
    """Yield the steps of one sample, in order. Rows that see no tile are in none."""
    end = view.num_tokens
    edges = [min(first, end) for first in (*view.visible_from, end)]
    for tiles, (start, stop) in enumerate(pairwise(edges), start=1):
        if start < stop:
            yield Step(
                rows=slice(view.rows.start + start, view.rows.start + stop),
                keys=slice(view.keys.start, view.keys.start + tiles * view.patches),
            )
