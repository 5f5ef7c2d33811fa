# SPDX-License-Identifier: Apache-2.0
"""Log each step as one line, and pass its numbers to the metrics writers."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import torch
import torch.distributed as dist

from owl.checkpoint.state import TrainState
from owl.config.run import LogConfig, PackConfig, StageConfig
from owl.data.plan.plan import imbalance
from owl.data.samples import DataReport, PackedBatch, StepBatch
from owl.logging import StepFigures, logger, step_line
from owl.mcore.process_groups import ProcessGroups
from owl.train.device_peak import device_peak_tflops
from owl.train.loop import Hook, StepReport
from owl.train.metrics_writers import MetricsWriter


class LogHook(Hook):
    """Logs one readable line a step on rank 0, and writes full precision to metrics.jsonl.

    Figures over all ranks cost one collective, in logged steps only.

    Args:
        writers: of this rank; empty except on rank 0.
        log: how often to log. The writers get every step.
        pack: budgets that the fills are measured against.
        stage: how many steps there are.
        flops: counts the floating-point operations of a pack's step, by part of the model.
        groups: Megatron's process groups.
        evaluated: returns what was evaluated after this step, by name, if anything.
    """

    def __init__(
        self,
        writers: Sequence[MetricsWriter],
        *,
        log: LogConfig,
        pack: PackConfig,
        stage: StageConfig,
        flops: Callable[[PackedBatch], Mapping[str, float]],
        groups: ProcessGroups,
        evaluated: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self.evaluated = evaluated
        self.writers, self.groups, self.flops = writers, groups, flops
        self.log, self.pack, self.stage = log, pack, stage
        self.peak_tflops = device_peak_tflops(groups.device, log.device_peak_tflops)
        self.steps_seen, self.typical_seconds = 0, 0.0
        self.read_retries = 0  # of this rank, since they were last gathered

    def after_step(self, state: TrainState, report: StepReport, batch: StepBatch) -> None:
        """Log and write the step."""
        seconds = batch.report.wait_seconds + report.seconds
        self._average_pace(seconds)
        self.read_retries += batch.report.read_retries
        values = _step_values(state, report, seconds) | _data_values(batch.report)
        values |= self._fills(report)
        values |= {f"learning_rate/{part}": r for part, r in self._part_rates(report).items()}
        if self._is_due(state.step):
            values |= self._figures_over_ranks(report, batch, seconds)
            logger.info(step_line(self._figures(state, report, values)))
        values |= self.evaluated()
        for writer in self.writers:
            writer.write(state.step, values)

    def close(self) -> None:
        """Close every writer, even if one of them fails."""
        with ExitStack() as stack:
            for writer in self.writers:
                stack.callback(writer.close)

    def _average_pace(self, seconds: float) -> None:
        """Average step times for the ETA: about the last ten, without a slow first one."""
        self.steps_seen += 1
        share = max(0.1, 1 / max(1, self.steps_seen - 1))
        self.typical_seconds += share * (seconds - self.typical_seconds)

    def _is_due(self, step: int) -> bool:
        return step % self.log.every_steps == 0 or step in (1, self.stage.train_steps)

    def _part_rates(self, report: StepReport) -> dict[str, float]:
        """Return the rates of trained parts that have one of their own."""
        trained = vars(self.stage.trainable)
        return {part: rate for part, rate in report.part_rates.items() if trained[part]}

    def _fills(self, report: StepReport) -> dict[str, float]:
        """Return how full the packs were, as fractions of the two budgets."""
        packs, pack = max(report.packs, 1), self.pack
        return {
            "text_fill": report.text_tokens / (packs * pack.text_tokens),
            "tile_fill": report.tiles / (packs * pack.tiles) if pack.tiles else 0.0,
        }

    def _figures_over_ranks(
        self, report: StepReport, batch: StepBatch, seconds: float
    ) -> dict[str, float]:
        """Compute what depends on all data-parallel ranks: the work done, and its balance."""
        flops: Counter[str] = Counter()
        for pack in batch.microbatches:
            flops.update(self.flops(pack))
        mine = [report.busy_seconds, batch.report.wait_seconds, self.read_retries, *flops.values()]
        self.read_retries = 0
        busy, waits, retries, *works = gather_rows(mine, self.groups).T.tolist()
        total = sum(map(sum, works))
        values = {
            "longest_wait_seconds": max(waits),
            "read_retries": round(sum(retries)),
            "measured_imbalance": imbalance(busy),
            "tflops_per_device": total / seconds / self.groups.world_size / 1e12,
            **{_tflop_name(part): sum(w) / 1e12 for part, w in zip(flops, works, strict=True)},
        }
        if self.peak_tflops:
            values["mfu"] = values["tflops_per_device"] / self.peak_tflops
        return values

    def _figures(
        self, state: TrainState, report: StepReport, values: Mapping[str, float]
    ) -> StepFigures:
        steps, is_shared = self.stage.train_steps, self.groups.dp_size > 1
        return StepFigures(
            step=state.step,
            train_steps=steps,
            loss=report.loss,
            grad_norm=report.grad_norm,
            learning_rate=report.learning_rate,
            part_rates=self._part_rates(report),
            samples=report.samples,
            target_tokens=report.target_tokens,
            text_tokens_per_second=values["text_tokens_per_second"],
            tiles_per_second=values["tiles_per_second"],
            text_fill=values["text_fill"],
            tile_fill=values["tile_fill"],
            tflops_per_device=values["tflops_per_device"],
            mfu=values.get("mfu"),
            imbalance=values["imbalance"] if is_shared else None,
            measured_imbalance=values["measured_imbalance"] if is_shared else None,
            step_seconds=values["step_seconds"],
            wait_seconds=values["longest_wait_seconds"],
            eta_seconds=self.typical_seconds * (steps - state.step),
            skipped_samples=sum(state.skipped.values()),
        )


def gather_rows(row: Sequence[float], groups: ProcessGroups) -> torch.Tensor:
    """Gather the same few numbers of every data-parallel rank: [ranks, numbers] float64."""
    rows = torch.zeros(groups.dp_size, len(row), dtype=torch.float64, device=groups.device)
    rows[groups.dp_rank] = torch.tensor(row, dtype=torch.float64)
    dist.all_reduce(rows, group=groups.collection.dp)
    return rows


def _tflop_name(part: str) -> str:
    return f"tflop/{part.replace(' ', '_')}"


def _step_values(state: TrainState, report: StepReport, seconds: float) -> dict[str, float]:
    """Return what the step did, and the counters after it."""
    return {
        "loss": report.loss,
        "grad_norm": report.grad_norm,
        "learning_rate": report.learning_rate,
        "loss_scale": report.loss_scale,
        "update_skipped": int(report.update_skipped),
        "samples": report.samples,
        "packs": report.packs,
        "text_tokens": report.text_tokens,
        "target_tokens": report.target_tokens,
        "tiles": report.tiles,
        "step_seconds": seconds,
        "text_tokens_per_second": report.text_tokens / seconds,
        "tiles_per_second": report.tiles / seconds,
        "consumed_samples": state.consumed_samples,
        "consumed_tokens": state.consumed_tokens,
        "consumed_tiles": state.consumed_tiles,
        **{f"skipped/{code}": count for code, count in sorted(state.skipped.items())},
    }


def _data_values(report: DataReport) -> dict[str, float]:
    """Return this rank's wait for data, and the balance and blend of the global batch."""
    samples = max(sum(report.source_samples.values()), 1)
    return {
        "wait_seconds": report.wait_seconds,
        "work": report.work,
        "imbalance": report.imbalance,
        **{f"share/{name}": count / samples for name, count in report.source_samples.items()},
        **{f"shortened/{code}": count for code, count in report.shortened.items()},
    }
