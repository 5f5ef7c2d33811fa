# SPDX-License-Identifier: Apache-2.0
"""Save a checkpoint every so many steps, and at the end."""

from collections.abc import Callable
from pathlib import Path

from owl.checkpoint.state import TrainState
from owl.data.samples import StepBatch
from owl.logging import logger
from owl.train.loop import Hook, StepReport


class CheckpointHook(Hook):
    """Calls `save` when a checkpoint is due, at the same steps on every rank.

    Args:
        save: writes a checkpoint of a state and returns its folder.
        every_steps: steps between two checkpoints.
        train_steps: the last step, which is always saved.
    """

    def __init__(
        self, save: Callable[[TrainState], Path], *, every_steps: int, train_steps: int
    ) -> None:
        self.save, self.every_steps, self.train_steps = save, every_steps, train_steps

    def after_step(self, state: TrainState, report: StepReport, batch: StepBatch) -> None:
        """Save if this is a step to save at."""
        if state.step % self.every_steps == 0 or state.step == self.train_steps:
            logger.info("saved %s", self.save(state))
