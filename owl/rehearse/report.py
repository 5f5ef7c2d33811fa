# SPDX-License-Identifier: Apache-2.0
"""What a rehearsal prints."""

from collections.abc import Mapping

from owl.config.run import RunConfig
from owl.rehearse.figures import Figures
from owl.rehearse.machine import Machine

GIB = 1 << 30
DAY = 86_400
SMALLEST = GIB // 50
"""Of the parts of memory that are listed."""


def report(figures: Figures, run: RunConfig, machine: Machine, *, mix: str) -> str:
    """Format the figures of one rank."""
    parallel, one = run.parallel, figures
    sections = (
        [
            f"rank {one.rank} of {one.ranks} x {machine.name}: {run.stage.name}, {run.model.name}, "
            f"{run.precision}, TP={parallel.tensor} PP={parallel.pipeline} "
            f"DP={one.ranks // parallel.tensor // parallel.pipeline}",
            f"packs: {mix}, a step has {one.micro_batches} micro-batches of about {one.tokens:,} "
            f"tokens and {one.tiles} tiles, of which {one.rehearsed} were rehearsed",
        ],
        _memory(figures, machine),
        _work(figures),
        _communication(figures),
        _listed("the host waits for the device", figures.waits),
        _listed("blocking copies", figures.blocking_copies),
        [figures.hang] if figures.hang else [],
        _time(figures, run),
    )
    return "\n\n".join("\n".join(section) for section in sections if section)


def _memory(figures: Figures, machine: Machine) -> list[str]:
    lines = [
        f"peak memory {figures.peak_bytes / GIB:.1f} GiB of {machine.memory_gib:g}, at "
        f"{figures.peak_where} (without fragmentation, and NCCL's buffers of 2 to 4 GiB)"
    ]
    for part, size in figures.memory.items():
        if size >= SMALLEST:
            lines.append(f"  {size / GIB:8.2f} GiB  {part}")
    return lines


def _work(figures: Figures) -> list[str]:
    title = "one micro-batch; optimizer, step"
    lines = [f"{title:<34}{'kernels':>9}{'TFLOP':>9}{'moved GB':>10}{'attentions':>12}"]
    for name, work in figures.work.items():
        lines.append(
            f"  {name:<32}{work['kernels']:>9,}{work['flops'] / 1e12:>9.2f}"
            f"{work['moved_bytes'] / 1e9:>10.1f}{work['attentions'] or '':>12}"
        )
    lines.append(f"  {'forward and backward pass':<32}{figures.kernels:>9,}")
    return lines


def _communication(figures: Figures) -> list[str]:
    if not figures.collectives:
        return []
    lines = [f"{'communication of a step':<42}{'calls':>8}{'GB':>10}"]
    for name, total in figures.collectives.items():
        lines.append(f"  {name:<40}{total['calls']:>8,}{total['bytes'] / 1e9:>10.2f}")
    return lines


def _listed(title: str, counts: Mapping[str, int]) -> list[str]:
    lines = [f"{title}: {sum(counts.values())} times in the rehearsed step"]
    return lines + [f"  {count:>4} x {name}" for name, count in counts.items()]


def _time(figures: Figures, run: RunConfig) -> list[str]:
    lines = ["a step takes at least"]
    for name, seconds in figures.seconds.items():
        if seconds >= 1e-6:
            lines.append(f"  {seconds * 1e3:>10.1f} ms  {name}")
    days = figures.step_seconds * run.stage.train_steps / DAY
    lines.append(
        f"  {figures.step_seconds * 1e3:>10.1f} ms  in all, bound by {figures.bound_by}\n"
        f"MFU at most {figures.mfu:.1%}; {figures.tokens_per_second:,.0f} tokens and "
        f"{figures.tiles_per_second:,.0f} tiles a second; {run.stage.train_steps:,} steps take "
        f"{days:,.1f} days"
    )
    return lines
