# SPDX-License-Identifier: Apache-2.0
"""Say each step in one line, and hand its numbers to the metrics writers."""

import time
from collections.abc import Sequence

from owl.checkpoint.state import TrainState
from owl.config.run import PackConfig
from owl.data.samples import DataReport, StepBatch
from owl.logging import StepFigures, logger, step_line
from owl.train.loop import StepReport
from owl.train.metrics_writers import MetricsWriter


class LogHook:
    """One readable line a step on rank 0; full precision to metrics.jsonl and its like.

    Args:
        writers: of this rank; empty everywhere but on rank 0.
        pack: budgets, which fills are measured against.
        train_steps: of the whole run, for the ETA.
        every_steps: how often to speak. The writers get every step.
    """

    def __init__(
        self,
        writers: Sequence[MetricsWriter],
        pack: PackConfig,
        *,
        train_steps: int,
        every_steps: int,
    ) -> None:
        self.writers, self.pack = writers, pack
        self.train_steps, self.every_steps = train_steps, every_steps
        self.last = time.perf_counter()
        self.typical_seconds: float | None = None

    def after_step(self, state: TrainState, report: StepReport, batch: StepBatch) -> None:
        """Log and write the step."""
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        figures = self._figures(state, report, seconds)
        if state.step % self.every_steps == 0 or state.step in (1, self.train_steps):
            logger.info(step_line(figures))
        values = self._values(state, report, figures, batch)
        for writer in self.writers:
            writer.write(state.step, values)

    def _figures(self, state: TrainState, report: StepReport, seconds: float) -> StepFigures:
        # A moving average, so that one slow step (a checkpoint, a compile) does not move the ETA.
        before = self.typical_seconds if self.typical_seconds is not None else seconds
        self.typical_seconds = 0.9 * before + 0.1 * seconds
        packs = max(report.packs, 1)
        return StepFigures(
            step=state.step,
            train_steps=self.train_steps,
            loss=report.loss,
            grad_norm=report.grad_norm,
            learning_rate=report.learning_rate,
            samples=report.samples,
            target_tokens=report.target_tokens,
            text_tokens_per_second=report.text_tokens / seconds,
            tiles_per_second=report.tiles / seconds,
            text_fill=report.text_tokens / (packs * self.pack.text_tokens),
            tile_fill=report.tiles / (packs * self.pack.tiles) if self.pack.tiles else 0.0,
            mfu=None,
            step_seconds=seconds,
            eta_seconds=self.typical_seconds * (self.train_steps - state.step),
            skipped_samples=sum(state.skipped.values()),
        )

    def _values(
        self, state: TrainState, report: StepReport, figures: StepFigures, batch: StepBatch
    ) -> dict[str, float]:
        values: dict[str, float] = {
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
            "text_fill": figures.text_fill,
            "tile_fill": figures.tile_fill,
            "step_seconds": figures.step_seconds,
            "text_tokens_per_second": figures.text_tokens_per_second,
            "tiles_per_second": figures.tiles_per_second,
            "consumed_samples": state.consumed_samples,
            "consumed_tokens": state.consumed_tokens,
            "consumed_tiles": state.consumed_tiles,
        }
        for code, count in sorted(state.skipped.items()):
            values[f"skipped/{code}"] = count
        return values | _data_values(batch.report)

    def close(self) -> None:
        """Finish every writer."""
        for writer in self.writers:
            writer.close()


def _data_values(report: DataReport) -> dict[str, float]:
    """How the data came: this rank's wait, and of the whole step's plan balance and blend."""
    samples = max(sum(report.source_samples.values()), 1)
    return {
        "wait_seconds": report.wait_seconds,
        "read_retries": report.read_retries,
        "work": report.work,
        "imbalance": report.imbalance,
        **{f"share/{name}": count / samples for name, count in report.source_samples.items()},
        **{f"shortened/{code}": count for code, count in report.shortened.items()},
    }
