# SPDX-License-Identifier: Apache-2.0
"""Check that stage 1 does not change frozen weights: compare two checkpoints bit for bit."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from owl.checkpoint.folder import resolve_checkpoint
from owl.checkpoint.load import load_model_config, load_tensors
from owl.checkpoint.save import CARRIED
from owl.config.run import DeviceKind, ParallelConfig, Trainable
from owl.mcore.parameters import VOCABULARY_TABLES
from owl.mcore.process_groups import process_groups
from owl.model.freeze import part_of

ON_CPU = ParallelConfig(device=DeviceKind.cpu)


def frozen_tensors_changed(start: Path, trained: Path, trainable: Trainable) -> list[str]:
    """Compare the frozen tensors of two checkpoints bit for bit.

    Args:
        start: checkpoint or run folder that training started from.
        trained: checkpoint or run folder of the result.
        trainable: the parts that were trained.

    Returns:
        Names of the frozen tensors that differ or are missing; empty unless there is a bug.
    """
    before_path = resolve_checkpoint(start, "start")
    after_path = resolve_checkpoint(trained, "trained")
    vocab_size = load_model_config(before_path).vocab_size
    with process_groups(ON_CPU, alone=True):
        before = without_padding(load_tensors(before_path), vocab_size)
        after = without_padding(load_tensors(after_path), vocab_size)
    changed = different_tensors(before, after, trainable)
    if _bytes(before_path / CARRIED) != _bytes(after_path / CARRIED):
        changed.append(CARRIED)
    return changed


def different_tensors(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], trainable: Trainable
) -> list[str]:
    """List the frozen tensors whose bits differ, or that are missing after training."""
    frozen = [name for name in before if not getattr(trainable, part_of(name))]
    return [
        name for name in frozen if name not in after or not is_same_bits(before[name], after[name])
    ]


def is_same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same bytes; unlike torch.equal, 0.0 and -0.0 differ."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(_as_bytes(one), _as_bytes(other))


def without_padding(tensors: Mapping[str, Tensor], vocab_size: int) -> dict[str, Tensor]:
    """Remove the padding rows that tensor parallelism adds to the vocabulary."""
    return {
        name: tensor[:vocab_size] if name in VOCABULARY_TABLES else tensor
        for name, tensor in tensors.items()
    }


def _as_bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(torch.uint8)


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""
