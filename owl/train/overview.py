# SPDX-License-Identifier: Apache-2.0
"""What a run is, before it starts: layers, parameters, micro-batches, versions."""

import subprocess
from pathlib import Path

import torch

from owl.config.run import (
    CommBackend,
    DeviceKind,
    ModelConfig,
    ParallelConfig,
    Precision,
    RunConfig,
)
from owl.mcore.process_groups import process_groups
from owl.mcore.version import PINNED
from owl.model.freeze import part_sizes, part_table


def layer_table(model: ModelConfig, parallel: ParallelConfig) -> str:
    """Draw which decoder layers look at images, and which pipeline stage holds them."""
    hyper = set(model.hyper_attention.layer_indices)
    lines = [f"{'stage':<8}{'layers':<14}{'look at images'}"]
    stages = parallel.stages(model.num_layers)
    for stage, chunks in enumerate(stages):
        held = " and ".join(f"{chunk[0]}-{chunk[-1]}" for chunk in chunks)
        looking = ", ".join(str(i) for chunk in chunks for i in chunk if i in hyper) or "-"
        extra = " + vision tower, projector, embedding" if stage == 0 else ""
        extra += " + output layer" if stage == len(stages) - 1 else ""
        lines.append(f"{stage:<8}{held:<14}{looking}{extra}")
    tower = model.vision_tower
    lines.append(
        f"fusion {model.hyper_attention.fusion}, projector {model.projector}, a tile is "
        f"{tower.image_size} px and {model.keys_per_tile} keys, tower layers "
        f"0-{tower.num_layers - 2} of {tower.num_layers} are computed"
    )
    return "\n".join(lines)


def parameter_sizes(
    model: ModelConfig, precision: Precision, device: DeviceKind
) -> list[tuple[str, int]]:
    """Name and size of every parameter of the unsplit model, without allocating one.

    Starts and ends a process group of one: call it before the real one, with the same device.
    """
    from owl.mcore.parameters import global_names
    from owl.mcore.provider import model_provider

    one = ParallelConfig(device=device, backend=CommBackend.gloo)  # nothing is communicated
    with process_groups(one, alone=True) as groups, torch.device("meta"):
        chunk = model_provider(model, one, precision, groups, initialise=False)(True, True, None)
        return [(name, parameter.numel()) for name, parameter in global_names([chunk])]


def batch_lines(run: RunConfig, *, global_batch_size: int | None, dp_size: int) -> str:
    """Say how a step is cut into packs and micro-batches."""
    packing = (
        f"packs of up to {run.pack.text_tokens:,} tokens and {run.pack.tiles} tiles"
        if run.pack.enabled
        else f"one sample a pack, up to {run.pack.text_tokens:,} tokens and {run.pack.tiles} tiles"
    )
    if global_batch_size is None:
        return (
            f"batch: about {run.batch.samples_per_step:,} samples a step, in {packing}; the number "
            f"of packs follows from the data, which is not there yet"
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


def freeze_table(run: RunConfig, sizes: list[tuple[str, int]]) -> str:
    """Draw how many parameters each part has, and how many learn."""
    return part_table(part_sizes(sizes, run.stage.trainable))


def version_line() -> str:
    """Name what this run computes with, so that a log says it for ever."""
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
