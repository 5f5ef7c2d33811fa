# SPDX-License-Identifier: Apache-2.0
"""Build every part in the order that data meets it, then train: start reading here."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import nn

from owl.checkpoint.load import load_everything, load_lora_config, load_weights
from owl.checkpoint.state import TrainState
from owl.config.check import check_run
from owl.config.run import LoraConfig, RunConfig
from owl.data.loader import Loader
from owl.data.open_run import (
    check_vocabulary,
    chosen_for,
    data_lines,
    open_loader,
    packs_per_step,
    step_size,
)
from owl.logging import logger, set_up_logging
from owl.mcore.adapters import add_adapters
from owl.mcore.optimizer import Optimizer, build_optimizer
from owl.mcore.process_groups import ProcessGroups, process_groups, world_size
from owl.mcore.provider import build_model, wrap_for_training
from owl.train import overview
from owl.train.hooks.build import build_hooks
from owl.train.loop import fit
from owl.train.run_folder import sole_run
from owl.train.skip_sync import broadcast_skips, gather_faults
from owl.train.start import Start, find_start
from owl.train.step import make_step


def train(run: RunConfig) -> None:
    """Train as configured, from the newest checkpoint of the run folder if there is one.

    Raises:
        ConfigError: a setting or a data folder cannot work, or another run writes to the folder.
        CheckpointError: a checkpoint cannot be read, or holds another model.
    """
    set_up_logging()
    check_run(run, world_size())
    if run.dry_run:
        return dry_run(run)
    with sole_run(Path(run.output)):
        build_and_fit(run)


def build_and_fit(run: RunConfig) -> None:
    """Build each part in the order that data meets it, then train to the last step."""
    start = find_start(run)
    sizes = overview.parameter_sizes(run)
    with process_groups(run.parallel, seed=run.seed) as groups:
        loader = build_loader(run, groups)  # shards -> samples -> packed batches
        cursor = start.cursor
        global_batch_size = step_size(run.batch, loader, dp_size=groups.dp_size, start=cursor)
        steps = loader.steps(global_batch_size, cursor, samples_per_step=chosen_for(run.batch))
        if groups.is_writer:
            overview.write_run_overview(
                run, sizes, global_batch_size, groups.dp_size, data_lines(run, loader, cursor)
            )

        chunks = build_trained_model(run, start, groups)  # packed batch -> loss per token
        optimizer = build_run_optimizer(run, chunks, groups)
        state = resume(run, start, chunks, optimizer, groups)
        if state.step >= run.stage.train_steps:
            logger.info("nothing to do: %s is at step %d", run.output, state.step)
            return

        fit(
            make_step(chunks, optimizer, groups),
            steps,
            build_hooks(run, chunks, optimizer, groups, state, carried=start.carried),
            state=state,
            train_steps=run.stage.train_steps,
        )


def dry_run(run: RunConfig) -> None:
    """Print layers, parameters and micro-batches of the run, without allocating weights."""
    dp_size = max(1, world_size() // (run.parallel.tensor * run.parallel.pipeline))
    global_batch_size, data = None, []
    if all(Path(source.path).is_dir() for source in run.data.sources.values()):
        loader = open_loader(run, dp_size=dp_size)
        check_vocabulary(run, loader)
        global_batch_size = step_size(run.batch, loader, dp_size=dp_size)
        data = data_lines(run, loader)
    elif not run.pack.enabled or run.batch.global_batch_size:
        global_batch_size = packs_per_step(run.batch, mean_samples_per_pack=1.0, dp_size=dp_size)
    sizes = overview.parameter_sizes(run)
    overview.log_run_overview(run, sizes, global_batch_size, dp_size, data)
    logger.info("dry run: nothing was trained")


def build_loader(run: RunConfig, groups: ProcessGroups) -> Loader:
    """Open this rank's share of the data."""
    loader = open_loader(
        run,
        dp_rank=groups.dp_rank,
        dp_size=groups.dp_size,
        read_pixels=groups.is_first_stage,
        share_skips=partial(broadcast_skips, groups=groups) if groups.pp_size > 1 else None,
        gather_faults=partial(gather_faults, groups=groups) if groups.dp_size > 1 else None,
    )
    check_vocabulary(run, loader)
    return loader


def build_trained_model(run: RunConfig, start: Start, groups: ProcessGroups) -> list[nn.Module]:
    """Build this rank's model chunks, load the weights they start from, and freeze.

    An optimizer copies the weights when it is built, so they have to be loaded before.
    """
    chunks = build_model(run.model, run.parallel, run.precision, groups)
    load_start(run, start, chunks, groups)
    return wrap_chunks(run, chunks)


def wrap_chunks(run: RunConfig, chunks: list[nn.Module]) -> list[nn.Module]:
    """Freeze what the run does not train, and wrap for training."""
    chunks = wrap_for_training(
        chunks,
        run.trained_parts,
        run.parallel,
        precision=run.precision,
        distributed_optimizer=run.optim.distributed,
    )
    for chunk in chunks:
        chunk.train()
    return chunks


def build_run_optimizer(
    run: RunConfig, chunks: list[nn.Module], groups: ProcessGroups
) -> Optimizer:
    """Build the run's optimizer and its schedule for wrapped chunks."""
    return build_optimizer(
        run.optim,
        chunks,
        groups,
        precision=run.precision,
        train_steps=run.stage.train_steps,
        overlap_param_gather=run.parallel.overlap_param_gather,
    )


def load_start(
    run: RunConfig, start: Start, chunks: Sequence[nn.Module], groups: ProcessGroups
) -> None:
    """Load the weights that training starts from, and put the run's adapters on.

    Adapters that the checkpoint has are trained on where the run has the same; else they are merged
    into the weights, and the run's own start at zero.
    """
    stored = load_lora_config(start.weights) if start.weights else LoraConfig()
    goes_on = stored.is_on and stored.adds_as(run.lora)
    if goes_on:
        add_adapters(chunks, run.lora, seed=groups.seed)
    if start.weights is not None:
        load_weights(start.weights, chunks, run.model, groups)
        logger.info("weights from %s", start.weights)
    if stored.is_on:
        logger.info("its adapters are %s", "trained on" if goes_on else "merged into the weights")
    if run.lora.is_on and not goes_on:
        add_adapters(chunks, run.lora, seed=groups.seed)


def resume(
    run: RunConfig,
    start: Start,
    chunks: Sequence[nn.Module],
    optimizer: Optimizer,
    groups: ProcessGroups,
) -> TrainState:
    """Load all that the resumed checkpoint holds; return its state, or a new one without it."""
    if start.resumed is None:
        return TrainState()
    state = load_everything(start.resumed, chunks, optimizer.megatron, run.model, groups)
    optimizer.seek(state.step)
    logger.info("resuming from %s, step %d", start.resumed, state.step)
    return state
