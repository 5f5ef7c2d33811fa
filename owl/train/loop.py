# SPDX-License-Identifier: Apache-2.0
"""fit(): the training loop, its hooks, and what one step reports."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from owl.checkpoint.state import TrainState
from owl.data.samples import StepBatch
from owl.logging import logger


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one optimizer step saw and did; over all ranks, except for the two times."""

    loss: float  # per unit of loss weight
    grad_norm: float  # before clipping
    learning_rate: float
    part_rates: Mapping[str, float] = field(default_factory=dict)  # where a part has its own rate
    loss_scale: float
    update_skipped: bool  # fp16: gradients overflowed
    samples: int
    packs: int
    text_tokens: int
    target_tokens: int
    tiles: int
    skipped: Mapping[str, int] = field(default_factory=dict)  # error code -> samples
    seconds: float  # from batch to updated weights, without the wait for the batch
    busy_seconds: float  # of this rank's forward and backward passes, waiting for nobody


class Hook(Protocol):
    """Acts between steps: logs, saves, evaluates. Each decides at which steps.

    Subclasses override what they need; the methods here do nothing.
    """

    def after_step(self, state: TrainState, report: StepReport, batch: StepBatch) -> None:
        """Act after a step.

        Args:
            state: counters after the step.
            report: what the step reported.
            batch: what it was computed from.
        """
        return

    def on_error(self, error: BaseException) -> None:
        """Act on the exception (KeyboardInterrupt too) that ends training; `close` follows."""
        return

    def close(self) -> None:
        """Release files and connections. Called last and once, however training ends."""
        return


def fit(
    step_fn: Callable[[StepBatch], StepReport],
    batches: Iterator[StepBatch],
    hooks: Sequence[Hook],
    *,
    state: TrainState,
    train_steps: int,
) -> None:
    """Train until state.step reaches train_steps, then close the hooks, the last one first.

    Every hook is closed on exceptions too, including those of another hook.
    """
    with ExitStack() as stack:
        for hook in hooks:
            stack.push(partial(_end, hook))
        while state.step < train_steps:
            batch = next(batches)
            report = step_fn(batch)

            state.step += 1
            state.cursor = batch.cursor
            state.consumed_tokens += report.text_tokens
            state.consumed_tiles += report.tiles
            for code, count in report.skipped.items():
                state.skipped[code] = state.skipped.get(code, 0) + count

            for hook in hooks:
                hook.after_step(state, report, batch)


def _end(hook: Hook, kind: object, error: BaseException | None, traceback: object) -> None:
    """Close a hook; after an error that ends training, log what else fails: it must not hide it."""
    if error is None:
        return hook.close()
    for act in (partial(hook.on_error, error), hook.close):
        try:
            act()
        except Exception:
            logger.exception("%s failed after an error had ended training", type(hook).__name__)
