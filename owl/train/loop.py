# SPDX-License-Identifier: Apache-2.0
"""fit(): the loop, and what one turn of it reports."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from owl.checkpoint.state import TrainState
from owl.data.samples import StepBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one optimizer step saw and did: over all ranks, but for the two times."""

    loss: float  # per unit of loss weight
    grad_norm: float  # before clipping
    learning_rate: float
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
    """Acts after a step: logs, saves. Decides by itself whether it is due."""

    def after_step(self, state: TrainState, report: StepReport, batch: StepBatch) -> None:
        """See the counters after the step, what the step reported, and what it was made of."""
        ...


def fit(
    step_fn: Callable[[StepBatch], StepReport],
    batches: Iterator[StepBatch],
    hooks: Sequence[Hook],
    *,
    state: TrainState,
    train_steps: int,
) -> None:
    """Train until state.step reaches train_steps."""
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
