# SPDX-License-Identifier: Apache-2.0
"""A step's time from what was counted and a machine table. Everything here is a bound: kernels are
assumed to run one after the other at the table's rates, and nothing else to cost time.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from owl.config.run import RunConfig
from owl.rehearse.machine import Machine
from owl.rehearse.watch import PASSES, Collective, Record

_TRAFFIC = {"allreduce": 2.0}  # times the bytes of a ring; other kinds once


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds of one optimizer step, and what it achieves."""

    terms: Mapping[str, float]  # what takes them
    mfu: float  # 0 to 1
    tokens_per_second: float  # of the job
    tiles_per_second: float

    @property
    def bound_by(self) -> str:
        """The largest term."""
        return max(self.terms, key=lambda name: self.terms[name])


@dataclass(frozen=True, slots=True)
class StepSize:
    """How much of a step was rehearsed."""

    ranks: int
    rehearsed: int  # micro-batches
    in_step: int
    flops: Mapping[str, int]  # of the rehearsed micro-batches, as training counts them
    text_tokens: int  # of the rehearsed micro-batches
    tiles: int


def estimate(record: Record, run: RunConfig, machine: Machine, size: StepSize) -> Estimate:
    """Estimate a full step of one rank.

    Args:
        record: of the rehearsed micro-batches, and of one update.
        run: its settings.
        machine: rates.
        size: of the step.
    """
    parallel, scale = run.parallel, size.in_step / size.rehearsed
    replica = parallel.tensor * parallel.pipeline
    counts = {"flops": 0.0, "moved_bytes": 0.0, "kernels": 0.0}
    for (phase, _), work in record.work.items():
        times = scale if phase in PASSES else 1.0
        for name in counts:
            counts[name] += times * getattr(work, name)
    matmul = counts["flops"] / (machine.peak_tflops * 1e12 * machine.matmul_efficiency)
    memory = counts["moved_bytes"] / (machine.bandwidth_gbps * 1e9 * machine.bandwidth_efficiency)
    attention = _attention_flops(record, size, replica) * scale / (machine.attention_tflops * 1e12)
    device = matmul + memory + attention
    host = max(0.0, counts["kernels"] * machine.kernel_us * 1e-6 - device)

    exposed = _exposed(record, run, machine, scale=scale, hides=device / scale / 2)
    stages = parallel.pipeline
    per_micro_batch = (device + host + exposed.get("tensor", 0.0)) / size.in_step
    terms = {
        "matrix products": matmul,
        "attention": attention,
        "memory bandwidth": memory,
        "launching kernels": host,
        **{f"{group} communication": time for group, time in exposed.items()},
        "pipeline bubble": per_micro_batch * (stages - 1) / parallel.virtual_pipeline,
    }
    replicas, seconds = size.ranks // replica, sum(terms.values())
    useful = sum(size.flops.values()) * scale * replicas
    return Estimate(
        terms=terms,
        mfu=useful / (seconds * size.ranks * machine.peak_tflops * 1e12),
        tokens_per_second=size.text_tokens * scale * replicas / seconds,
        tiles_per_second=size.tiles * scale * replicas / seconds,
    )


def _attention_flops(record: Record, size: StepSize, replica: int) -> float:
    """Operations of attention: the tower's as run, the decoder's as its masks leave them."""
    tower = sum(work.attention_flops for (_, part), work in record.work.items() if part == "tower")
    decoder = sum(count for part, count in size.flops.items() if "attention" in part)
    return tower + decoder / replica


def _exposed(
    record: Record, run: RunConfig, machine: Machine, *, scale: float, hides: float
) -> dict[str, float]:
    """Seconds of communication by group, without what a micro-batch's backward pass hides."""
    seconds: dict[str, float] = {}
    for collective, size in record.collective_bytes.items():
        times = scale if collective.phase in PASSES else 1.0
        name = group_name(collective, run)
        seconds[name] = seconds.get(name, 0.0) + times * transfer(collective, size, machine)
    overlapped = run.parallel.overlap_grad_reduce, run.parallel.overlap_param_gather
    if any(overlapped) and "data" in seconds:
        hidden = seconds["data"] * sum(overlapped) / 2
        seconds["data"] -= min(hidden, hides)
    return {name: time for name, time in seconds.items() if time > 0}


def transfer(collective: Collective, size: int, machine: Machine) -> float:
    """Seconds that one collective, or all alike, take at the rate of its slowest link."""
    ranks = collective.group
    if len(ranks) < 2:
        return 0.0
    nodes = {rank // machine.gpus_per_node for rank in ranks}
    rate = (
        machine.link_gbps * machine.link_efficiency
        if len(nodes) == 1
        else machine.network_gbps * machine.network_efficiency
    )
    share = 1.0 if collective.kind in ("send", "recv") else (len(ranks) - 1) / len(ranks)
    return _TRAFFIC.get(collective.kind, 1.0) * size * share / (rate * 1e9)


def group_name(collective: Collective, run: RunConfig) -> str:
    """Name a group of ranks by how they differ: tensor, pipeline, data, or all."""
    ranks, parallel = collective.group, run.parallel
    if len(ranks) < 2:
        return "alone"
    step = ranks[1] - ranks[0]
    # Megatron numbers ranks tensor first, then data, then pipeline.
    if step == 1 and len(ranks) == parallel.tensor:
        return "tensor"
    if collective.kind in ("send", "recv"):
        return "pipeline"
    return "data" if step == parallel.tensor or parallel.tensor == 1 else "model"
