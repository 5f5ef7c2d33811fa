# SPDX-License-Identifier: Apache-2.0
"""Load a checkpoint as a function from packs to logits, for evaluation and inspection."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from owl.checkpoint.folder import resolve_checkpoint
from owl.checkpoint.load import load_model_config, load_weights
from owl.config.run import DeviceKind, ModelConfig, ParallelConfig, Precision
from owl.data.samples import PackedBatch
from owl.mcore.process_groups import ProcessGroups, process_groups
from owl.mcore.provider import build_model


@dataclass(frozen=True)
class LoadedModel:
    """A complete model in one process."""

    config: ModelConfig
    logits: Callable[[PackedBatch], Tensor]  # to [t, v], without gradients
    groups: ProcessGroups


@contextmanager
def loaded_model(
    path: Path,
    precision: Precision = Precision.fp32,
    device: DeviceKind = DeviceKind.auto,
    *,
    alone: bool = True,
) -> Iterator[LoadedModel]:
    """Load a checkpoint, or the newest of a run folder, saved in any layout.

    Has a process group while open: use it where there is no other.

    Args:
        path: checkpoint or run folder.
        precision: to compute in.
        device: to compute on.
        alone: a process group of one; off, all processes that torchrun started are data-parallel.
    """
    checkpoint = resolve_checkpoint(path, "--checkpoint")
    config, parallel = load_model_config(checkpoint), ParallelConfig(device=device)
    with process_groups(parallel, alone=alone) as groups:
        (chunk,) = build_model(config, parallel, precision, groups)
        load_weights(checkpoint, [chunk], config, groups)
        chunk.eval()

        def logits(batch: PackedBatch) -> Tensor:
            with torch.no_grad():
                return chunk(batch.to(groups.device), return_logits=True)

        yield LoadedModel(config, logits, groups)
