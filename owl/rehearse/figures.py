# SPDX-License-Identifier: Apache-2.0
"""The figures of one rehearsed rank as plain values: what is printed, written as JSON, compared."""

from collections import Counter
from dataclasses import asdict, dataclass

from owl.config.run import RunConfig
from owl.rehearse.estimate import Estimate, StepSize, group_name
from owl.rehearse.watch import PASSES, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one rank does. Passes are counted for one micro-batch, the rest for one step."""

    rank: int
    ranks: int
    micro_batches: int  # of a step
    rehearsed: int  # micro-batches
    tokens: int  # of a micro-batch, mean
    tiles: int  # likewise
    peak_bytes: int
    peak_where: str
    memory: dict[str, int]  # part -> bytes at the peak
    work: dict[str, dict[str, int]]  # "forward MLP" -> kernels, flops, moved_bytes, ...
    kernels: int  # forward and backward pass of a micro-batch
    collectives: dict[str, dict[str, int]]  # "tensor allreduce" -> calls, bytes; of a step
    waits: dict[str, int]  # "nonzero in forward, owl/..." -> times, of the rehearsed step
    blocking_copies: dict[str, int]
    seconds: dict[str, float]  # term -> seconds of a step
    mfu: float
    tokens_per_second: float
    tiles_per_second: float
    bound_by: str
    hang: str | None  # how the collectives of a rank without pictures differ

    @property
    def step_seconds(self) -> float:
        """Of a step, at least."""
        return sum(self.seconds.values())


def figures(
    record: Record,
    outcome: Estimate,
    run: RunConfig,
    size: StepSize,
    *,
    rank: int,
    hang: str | None,
) -> Figures:
    """Take the figures of a step from what was watched."""
    work: dict[str, dict[str, int]] = {}
    for (phase, part), done in record.work.items():
        times = size.rehearsed if phase in PASSES else 1
        counts = {name: value // times for name, value in asdict(done).items()}
        work[part if part == phase else f"{phase} {part}"] = counts
    return Figures(
        rank=rank,
        ranks=size.ranks,
        micro_batches=size.in_step,
        rehearsed=size.rehearsed,
        tokens=size.text_tokens // size.rehearsed,
        tiles=size.tiles // size.rehearsed,
        peak_bytes=record.peak,
        peak_where=record.peak_where,
        memory=dict(sorted(record.peak_parts.items(), key=lambda item: -item[1])),
        work=dict(sorted(work.items())),
        kernels=sum(
            counts["kernels"] for name, counts in work.items() if name.split()[0] in PASSES
        ),
        collectives=_collectives(record, run, size),
        waits=_named(record.waits),
        blocking_copies={
            name: times for name, times in _named(record.copies).items() if "blocking" in name
        },
        seconds=dict(outcome.terms),
        mfu=outcome.mfu,
        tokens_per_second=outcome.tokens_per_second,
        tiles_per_second=outcome.tiles_per_second,
        bound_by=outcome.bound_by,
        hang=hang,
    )


def _collectives(record: Record, run: RunConfig, size: StepSize) -> dict[str, dict[str, int]]:
    totals: dict[str, dict[str, int]] = {}
    for collective, calls in record.collectives.items():
        if len(collective.group) < 2:
            continue
        # Those of the passes were counted for some of the micro-batches.
        scale = size.in_step / size.rehearsed if collective.phase in PASSES else 1
        name = f"{group_name(collective, run)} {collective.kind}"
        total = totals.setdefault(name, {"calls": 0, "bytes": 0})
        total["calls"] += round(calls * scale)
        total["bytes"] += round(record.collective_bytes[collective] * scale)
    return dict(sorted(totals.items()))


def _named(counts: Counter[tuple[str, str, str]]) -> dict[str, int]:
    """Name by operation, phase and line, the most frequent first."""
    return {f"{what} in {phase}, {where}": n for (phase, what, where), n in counts.most_common()}
