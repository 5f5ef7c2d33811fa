# SPDX-License-Identifier: Apache-2.0
"""Build every part in the order that data meets it, then train: start reading here."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from owl.checkpoint.folder import newest_checkpoint, resolve_checkpoint
from owl.checkpoint.load import check_same_model, load_everything, load_weights
from owl.checkpoint.save import CARRIED, save_checkpoint
from owl.checkpoint.state import TrainState
from owl.config.check import check_run
from owl.config.load import to_yaml
from owl.config.run import RunConfig
from owl.data.open_run import check_vocabulary, chosen_for, open_loader, packs_per_step, step_size
from owl.errors import ConfigError
from owl.logging import logger, set_up_logging
from owl.mcore.optimizer import Optimizer, build_optimizer
from owl.mcore.process_groups import ProcessGroups, process_groups, world_size
from owl.mcore.provider import build_model, whole_weights, wrap_for_training
from owl.train import overview
from owl.train.hooks.checkpoint import CheckpointHook
from owl.train.hooks.log import LogHook
from owl.train.loop import fit
from owl.train.metrics_writers import build_writers
from owl.train.run_folder import sole_run
from owl.train.skip_sync import fault_gathering, skip_sharing
from owl.train.step import make_step


def train(run: RunConfig) -> None:
    """Train as the configuration says; go on from the run folder's newest checkpoint, if any."""
    set_up_logging()
    check_run(run, world_size())
    if run.dry_run:
        return dry_run(run)
    with sole_run(Path(run.output)):
        build_and_fit(run)


def build_and_fit(run: RunConfig) -> None:
    """Build each part from where training starts, and train to the last step."""
    folder = Path(run.output)
    newest = newest_to_resume(run, folder)
    start = None if newest else start_checkpoint(run)
    sizes = overview.parameter_sizes(run.model, run.precision, run.parallel.device)
    with process_groups(run.parallel, seed=run.seed) as groups:
        loader = open_loader(
            run,
            dp_rank=groups.dp_rank,
            dp_size=groups.dp_size,
            read_pixels=groups.is_first_stage,
            share_skips=skip_sharing(groups),
            gather_faults=fault_gathering(groups),
        )
        check_vocabulary(run, loader)
        cursor = TrainState.read(newest).cursor if newest else None
        global_batch_size = step_size(run.batch, loader, dp_size=groups.dp_size, start=cursor)
        steps = loader.steps(global_batch_size, cursor, samples_per_step=chosen_for(run.batch))
        log_run_overview(run, sizes, global_batch_size, groups)

        chunks, optimizer = build_trainable(run, start, groups)
        state = TrainState()
        if newest:
            state = load_everything(newest, chunks, optimizer.megatron, run.model, groups)
            optimizer.seek(state.step)
            logger.info("going on from %s, step %d", newest, state.step)
        if state.step >= run.stage.train_steps:
            logger.info("nothing to do: %s is at step %d", run.output, state.step)
            return

        carried = _carried(newest or start)
        writers = build_writers(run.log, folder, state.step) if groups.is_writer else []
        log = LogHook(
            writers,
            log=run.log,
            pack=run.pack,
            model=run.model,
            stage=run.stage,
            groups=groups,
        )
        save = CheckpointHook(
            _saver(run, chunks, optimizer, groups, carried),
            every_steps=run.checkpoint.every_steps,
            train_steps=run.stage.train_steps,
        )
        fit(
            make_step(chunks, optimizer, groups),
            steps,
            [log, save],
            state=state,
            train_steps=run.stage.train_steps,
        )
        log.close()


def dry_run(run: RunConfig) -> None:
    """Print what the run would be: layers, parameters, micro-batches. Allocates no weights."""
    dp_size = max(1, world_size() // (run.parallel.tensor * run.parallel.pipeline))
    global_batch_size = None
    if _data_is_there(run):
        loader = open_loader(run, dp_size=dp_size)
        check_vocabulary(run, loader)
        global_batch_size = step_size(run.batch, loader, dp_size=dp_size)
    elif not run.pack.enabled or run.batch.global_batch_size:
        global_batch_size = packs_per_step(run.batch, mean_samples_per_pack=1.0, dp_size=dp_size)
    sizes = overview.parameter_sizes(run.model, run.precision, run.parallel.device)
    _print_overview(run, sizes, global_batch_size, dp_size)
    logger.info("dry run: nothing was trained")


def log_run_overview(
    run: RunConfig, sizes: list[tuple[str, int]], global_batch_size: int, groups: ProcessGroups
) -> None:
    """Say once what this run is, and leave its configuration in the run folder."""
    if not groups.is_writer:
        return
    folder = Path(run.output)
    (folder / "config.yaml").write_text(to_yaml(run))
    _print_overview(run, sizes, global_batch_size, groups.dp_size)
    logger.info("run folder %s (config.yaml holds every setting)", folder)


def newest_to_resume(run: RunConfig, folder: Path) -> Path | None:
    """Find the checkpoint to go on from. Raises ConfigError rather than bury an older run."""
    newest = newest_checkpoint(folder)
    if newest is None or run.checkpoint.resume:
        return newest
    raise ConfigError(
        f"checkpoint.resume=false, but output={run.output} already holds {newest.name}. Choose "
        f"another output=, or remove that folder."
    )


def start_checkpoint(run: RunConfig) -> Path | None:
    """Find the weights that a new run starts from. Raises CheckpointError when they do not fit."""
    if run.checkpoint.start_from is None:
        logger.info("checkpoint.start_from is not set: every weight starts at random")
        return None
    checkpoint = resolve_checkpoint(Path(run.checkpoint.start_from), "checkpoint.start_from")
    check_same_model(checkpoint, run.model)
    return checkpoint


def build_trainable(
    run: RunConfig, start: Path | None, groups: ProcessGroups
) -> tuple[list[nn.Module], Optimizer]:
    """Build the model, load the weights it starts from, freeze, and put an optimizer on the rest.

    The optimizer copies weights when it is built, so they have to be there before.
    """
    chunks = build_model(run.model, run.parallel, run.precision, groups)
    if start is not None:
        load_weights(start, chunks, run.model, groups)
        logger.info("weights from %s", start)
    chunks = wrap_for_training(
        chunks,
        run.stage.trainable,
        run.parallel,
        precision=run.precision,
        distributed_optimizer=run.optim.distributed,
    )
    for chunk in chunks:
        chunk.train()
    optimizer = build_optimizer(
        run.optim,
        chunks,
        groups,
        precision=run.precision,
        train_steps=run.stage.train_steps,
        overlap_param_gather=run.parallel.overlap_param_gather,
    )
    return chunks, optimizer


def _carried(checkpoint: Path | None) -> Path | None:
    """Find the weights that travel from checkpoint to checkpoint without being computed with."""
    path = checkpoint / CARRIED if checkpoint else None
    return path if path and path.is_file() else None


def _saver(
    run: RunConfig,
    chunks: list[nn.Module],
    optimizer: Optimizer,
    groups: ProcessGroups,
    carried: Path | None,
) -> Callable[[TrainState], Path]:
    def save(state: TrainState) -> Path:
        with whole_weights(chunks):
            return save_checkpoint(
                Path(run.output),
                chunks,
                optimizer.megatron,
                state,
                run.model,
                groups,
                carried=carried,
                keep=run.checkpoint.keep,
            )

    return save


def _data_is_there(run: RunConfig) -> bool:
    return all(Path(source.path).is_dir() for source in run.data.sources.values())


def _print_overview(
    run: RunConfig, sizes: list[tuple[str, int]], global_batch_size: int | None, dp_size: int
) -> None:
    """Print layers, parameters and batch on rank 0."""
    parallel = run.parallel
    for text in (
        f"{run.stage.name}: {run.model.name}, {run.stage.train_steps:,} steps, {run.precision}, "
        f"TP={parallel.tensor} PP={parallel.pipeline} DP={dp_size}",
        overview.version_line(),
        overview.layer_table(run.model, parallel),
        overview.freeze_table(run, sizes),
        overview.batch_lines(run, global_batch_size=global_batch_size, dp_size=dp_size),
    ):
        logger.info(text)
