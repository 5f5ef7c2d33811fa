# SPDX-License-Identifier: Apache-2.0
"""Write a sharded checkpoint: weights, optimizer, random states, training state, data cursor.

step_00000100/
  *.distcp, .metadata, common.pt, metadata.json   megatron-core's dist_checkpointing
  model.json              the architecture, so that a checkpoint can be read alone
  training.json           step, counters, data cursor, layout
  lora.json               of a run with adapters: what they are on, rank and scale
  carried.safetensors     published weights that influence no output, kept for export
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import dist_checkpointing
from torch import nn

from owl.checkpoint.content import OPTIMIZER_SHARDING, random_states, weight_shards
from owl.checkpoint.folder import checkpoint_path, remove_old
from owl.checkpoint.state import TrainState
from owl.config.run import LoraConfig, ModelConfig
from owl.mcore.process_groups import ProcessGroups

CARRIED = "carried.safetensors"
LORA = "lora.json"


def save_checkpoint(
    run: Path,
    chunks: Sequence[nn.Module],
    optimizer: Any,
    state: TrainState,
    model: ModelConfig,
    groups: ProcessGroups,
    *,
    carried: Path | None,
    keep: int,
    lora: LoraConfig | None = None,
) -> Path:
    """Save everything that a resumed run needs; every rank calls this together.

    Args:
        run: run folder.
        chunks: this rank's model.
        optimizer: Megatron's optimizer.
        state: step, counters and data cursor.
        model: architecture.
        groups: Megatron's process groups.
        carried: file of published weights that no output depends on; each checkpoint gets a copy.
        keep: newest checkpoints that are kept; 0 keeps all.
        lora: what adapters the chunks have.

    Returns:
        The folder of the checkpoint.
    """
    weights = weight_shards(chunks, groups)
    content = dict(weights)
    content["optimizer"] = optimizer.sharded_state_dict(weights, metadata=OPTIMIZER_SHARDING)
    content["random_states"] = random_states(groups)
    return write_checkpoint(
        checkpoint_path(run, state.step), content, model, state, groups,
        carried=carried, keep=keep, lora=lora,
    )  # fmt: skip


def write_checkpoint(
    final: Path,
    content: dict[str, Any],
    model: ModelConfig,
    state: TrainState,
    groups: ProcessGroups,
    *,
    carried: Path | None = None,
    keep: int = 0,
    lora: LoraConfig | None = None,
) -> Path:
    """Write a checkpoint under another name, and rename it when complete."""
    partial = final.with_name(final.name + ".tmp")
    if groups.is_writer:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    dist_checkpointing.save(content, str(partial))
    if groups.is_writer:
        layout = {"tensor": groups.tp_size, "pipeline": groups.pp_size}
        describe(partial, model, state, **layout, lora=lora)
        if carried is not None:
            shutil.copyfile(carried, partial / CARRIED)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        remove_old(final.parent.parent, keep)
    dist.barrier()
    return final


def describe(
    folder: Path,
    model: ModelConfig,
    state: TrainState,
    *,
    tensor: int = 1,
    pipeline: int = 1,
    lora: LoraConfig | None = None,
) -> None:
    """Write the files that describe a checkpoint: model.json, training.json and lora.json.

    Args:
        folder: of the checkpoint.
        model: architecture.
        state: training state.
        tensor: tensor-parallel degree of the job that saves.
        pipeline: its pipeline-parallel degree.
        lora: its adapters, if there are any.
    """
    (folder / "model.json").write_text(json.dumps(asdict(model), indent=2))
    training = state.to_dict() | {"layout": {"tensor": tensor, "pipeline": pipeline}}
    (folder / "training.json").write_text(json.dumps(training, indent=2))
    if lora is not None and lora.is_on:
        (folder / LORA).write_text(json.dumps(asdict(lora), indent=2))
