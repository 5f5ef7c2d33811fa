# SPDX-License-Identifier: Apache-2.0
"""Build what acts between the steps of a run. A new hook is one more entry here."""

from dataclasses import replace
from pathlib import Path

from torch import nn

from owl.checkpoint.save import save_checkpoint
from owl.checkpoint.state import TrainState
from owl.config.run import RunConfig
from owl.data.families import WORK
from owl.mcore.optimizer import Optimizer
from owl.mcore.process_groups import ProcessGroups
from owl.mcore.provider import synchronized_weights
from owl.train.hooks.checkpoint import CheckpointHook
from owl.train.hooks.evaluate import EvaluateHook
from owl.train.hooks.log import LogHook
from owl.train.loop import Hook
from owl.train.metrics_writers import build_writers


def build_hooks(
    run: RunConfig,
    chunks: list[nn.Module],
    optimizer: Optimizer,
    groups: ProcessGroups,
    state: TrainState,
    *,
    carried: Path | None,
) -> list[Hook]:
    """Build a run's hooks, in the order in which they act after a step.

    Args:
        run: its settings.
        chunks: this rank's model, wrapped for training.
        optimizer: over its parameters.
        groups: Megatron's process groups.
        state: before the first step that is left.
        carried: file of unused weights that each checkpoint gets a copy of.

    Raises:
        ConfigError: a package that a metrics writer needs is not installed.
    """
    folder = Path(run.output)

    def save(state: TrainState) -> Path:
        with synchronized_weights(chunks):
            return save_checkpoint(
                folder,
                chunks,
                optimizer.megatron,
                state,
                run.model,
                groups,
                carried=carried,
                keep=run.checkpoint.keep,
                lora=run.lora,
            )

    evaluate = EvaluateHook(run, chunks, groups)
    return [
        evaluate,
        LogHook(
            build_writers(run.log, folder, state.step) if groups.is_writer else [],
            log=run.log,
            pack=run.pack,
            stage=replace(run.stage, trainable=run.learning_parts),
            flops=lambda batch: WORK[run.model.family].batch_flops(
                batch, run.model, run.counted_parts
            ),
            groups=groups,
            evaluated=lambda: evaluate.values,
        ),
        CheckpointHook(
            save, every_steps=run.checkpoint.every_steps, train_steps=run.stage.train_steps
        ),
    ]
