# SPDX-License-Identifier: Apache-2.0
"""Log what a run is before it starts: layers, parameters, micro-batches, versions."""

import subprocess
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

import torch

from owl.config.load import to_yaml
from owl.config.run import CommBackend, LrDecay, ModelConfig, ParallelConfig, RunConfig
from owl.logging import logger
from owl.mcore.optimizer import warmup_steps
from owl.mcore.process_groups import process_groups
from owl.mcore.version import PINNED
from owl.model.freeze import part_sizes, part_table


def write_run_overview(
    run: RunConfig,
    sizes: list[tuple[str, int]],
    global_batch_size: int,
    dp_size: int,
    data: Sequence[str],
) -> None:
    """Log the overview, and write the run's configuration into its folder. For one rank only."""
    (Path(run.output) / "config.yaml").write_text(to_yaml(run))
    log_run_overview(run, sizes, global_batch_size, dp_size, data)
    logger.info("run folder %s (config.yaml holds every setting)", run.output)


def log_run_overview(
    run: RunConfig,
    sizes: list[tuple[str, int]],
    global_batch_size: int | None,
    dp_size: int,
    data: Sequence[str] = (),
) -> None:
    """Log versions, layers, parameters, batch and data.

    Args:
        run: its settings.
        sizes: from parameter_sizes.
        global_batch_size: packs of a step; None where it depends on data that does not exist yet.
        dp_size: data-parallel ranks.
        data: lines about what becomes of its samples.
    """
    parallel = run.parallel
    for text in (
        f"{run.stage.name}: {run.model.name}, {run.stage.train_steps:,} steps, {run.precision}, "
        f"TP={parallel.tensor} PP={parallel.pipeline} DP={dp_size}",
        version_line(),
        layer_table(run.model, parallel),
        part_table(part_sizes(sizes, run.trained_parts)),
        rate_line(run),
        batch_lines(run, global_batch_size=global_batch_size, dp_size=dp_size),
        *(["\n".join(data)] if data else []),
    ):
        logger.info(text)


def layer_table(model: ModelConfig, parallel: ParallelConfig) -> str:
    """Format which decoder layers attend to images, and which pipeline stage holds them."""
    attending = set(model.enters.layers)
    lines = [f"{'stage':<8}{'layers':<14}{'attend to images'}"]
    stages = parallel.stages(model.num_layers)
    for stage, chunks in enumerate(stages):
        held = " and ".join(f"{chunk[0]}-{chunk[-1]}" for chunk in chunks)
        named = ", ".join(str(i) for chunk in chunks for i in chunk if i in attending) or "-"
        extra = " + vision tower, projector, embedding" if stage == 0 else ""
        extra += " + output layer" if stage == len(stages) - 1 else ""
        lines.append(f"{stage:<8}{held:<14}{named}{extra}")
    tower = model.vision_tower
    of_family = [f"{k} {v}, " for k, v in vars(model.node).items() if isinstance(v, StrEnum)]
    lines.append(
        f"{model.family}, {''.join(of_family)}projector {model.projector}, a tile is "
        f"{tower.image_size} px and {model.keys_per_tile} keys, tower layers "
        f"0-{tower.layers_run - 1} of {tower.num_layers} are computed"
    )
    return "\n".join(lines)


def parameter_sizes(run: RunConfig) -> list[tuple[str, int]]:
    """Return name and number of elements of every parameter of the unsplit model.

    Allocates no weights. Starts and ends a process group of one: call it before the job's own
    group, with the same device.
    """
    from owl.mcore.parameters import global_names
    from owl.mcore.provider import model_provider
    from owl.model import lora

    # Nothing is communicated.
    one = ParallelConfig(device=run.parallel.device, backend=CommBackend.gloo)
    with process_groups(one, alone=True) as groups, torch.device("meta"):
        provide = model_provider(run.model, one, run.precision, groups, initialise=False)
        chunk = provide(True, True, None)
        lora.attach(chunk, run.lora)
        return [(name, parameter.numel()) for name, parameter in global_names([chunk])]


def rate_line(run: RunConfig) -> str:
    """Format the peak learning rates of the trained parts, and how they change."""
    optim, trained = run.optim, run.learning_parts
    peaks = [f"{part} {optim.peak(part):.3g}" for part, learns in vars(trained).items() if learns]
    if trained.vision_tower and optim.tower_layer_decay != 1:
        peaks[0] += f" (times {optim.tower_layer_decay:g} for each layer below its last)"
    share = optim.min_learning_rate / optim.learning_rate
    after = "" if optim.decay is LrDecay.constant else f" decay to {share:.3g} of it"
    steps = _count(warmup_steps(optim, run.stage.train_steps), "warm-up step")
    return f"learning rate: {', '.join(peaks)}; {steps}, then {optim.decay}{after}"


def batch_lines(run: RunConfig, *, global_batch_size: int | None, dp_size: int) -> str:
    """Format how a step is divided into packs and micro-batches."""
    packing = (
        f"packs of up to {run.pack.text_tokens:,} tokens and {run.pack.tiles} tiles"
        if run.pack.enabled
        else f"one sample a pack, up to {run.pack.text_tokens:,} tokens and {run.pack.tiles} tiles"
    )
    if global_batch_size is None:
        return (
            f"batch: about {run.batch.samples_per_step:,} samples a step, in {packing}; the number "
            f"of packs depends on the data, which does not exist yet"
        )
    per_rank = run.batch.micro_batch_size * dp_size
    return (
        f"batch: {_count(global_batch_size, 'pack')} a step, {packing}\n"
        f"       = {_count(global_batch_size // per_rank, 'micro-batch', 'es')} of "
        f"{_count(run.batch.micro_batch_size, 'pack')} on each of "
        f"{_count(dp_size, 'data-parallel rank')}"
    )


def _count(number: int, what: str, plural: str = "s") -> str:
    return f"{number:,} {what}{'' if number == 1 else plural}"


def version_line() -> str:
    """Format the versions that a run computes with."""
    return f"torch {torch.__version__}, megatron-core {PINNED}, commit {_commit()}"


def _commit() -> str:
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
