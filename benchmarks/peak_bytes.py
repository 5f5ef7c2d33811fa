# SPDX-License-Identifier: Apache-2.0
"""Count what a computation holds in memory, to the byte, from torch's own record of allocations.

Not the size of the process: the counts are the same on every run and on every machine with the
same torch, and include what kernels hold for themselves. (torch's profiler says on standard error
when it starts and stops; no setting silences it.)
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

UNITS = {"KiB": 1 << 10, "MiB": 1 << 20}


def peak_bytes(compute: Callable[[], object]) -> int:
    """Run once; return the most bytes of tensors held at a time, beyond what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        compute()
    events = record.profiler.kineto_results.experimental_event_tree()
    changes = sorted(
        (event.start_time_ns, event.extra_fields.alloc_size)
        for event in _walk(events)
        if event.typed[0] == _EventType.Allocation
    )
    return max(accumulate((size for _, size in changes), initial=0))


def growths(sizes: Iterable[int]) -> list[float]:
    """How many times larger each number is than the one before."""
    return [after / before for before, after in pairwise(sizes)]


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Lay rows out under a header; values in columns whose name ends in a unit are bytes."""
    lines = [header, *([_cell(*pair) for pair in zip(header, row, strict=True)] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def _cell(name: str, value: Any) -> str:
    unit = UNITS.get(name.split()[-1])
    return f"{value / unit:,.2f}" if unit else f"{value:,}"


def _walk(events: Iterable[Any]) -> Iterator[Any]:
    for event in events:
        yield event
        yield from _walk(event.children)
