# SPDX-License-Identifier: Apache-2.0
"""Compare what two ranks communicate: where their order differs, a job would hang."""

from collections.abc import Sequence
from itertools import zip_longest

from owl.rehearse.watch import Collective

Log = Sequence[tuple[Collective, int]]


def first_difference(mine: Log, theirs: Log, ranks: tuple[int, int]) -> str | None:
    """Describe the first collective that two ranks do not enter alike.

    Args:
        mine: collectives of the first rank in order, with their bytes.
        theirs: those of the second.
        ranks: the two.

    Returns:
        A sentence with both lines of code; None where all groups that hold both ranks agree.
    """
    groups = dict.fromkeys(
        call.group for call, _ in (*mine, *theirs) if set(ranks) <= set(call.group)
    )
    for group in groups:
        logs = [[entry for entry in log if entry[0].group == group] for log in (mine, theirs)]
        for index, (one, other) in enumerate(zip_longest(*logs)):
            if _of(one) != _of(other):
                return (
                    f"collective {index} of the group of ranks {group[0]}..{group[-1]} differs: "
                    f"rank {ranks[0]} {_described(one)}, rank {ranks[1]} {_described(other)}. "
                    f"A real job would hang here, or mix up its data."
                )
    return None


def _of(entry: tuple[Collective, int] | None) -> tuple[str, int] | None:
    return (entry[0].kind, entry[1]) if entry else None


def _described(entry: tuple[Collective, int] | None) -> str:
    if entry is None:
        return "enters no more"
    call, size = entry
    return f"enters {call.kind} of {size:,} bytes in {call.phase} at {call.where}"
