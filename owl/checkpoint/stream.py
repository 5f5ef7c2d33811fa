# SPDX-License-Identifier: Apache-2.0
"""The weights of a sharded checkpoint one tensor at a time, both ways, without a model.

Loading and saving through megatron-core's dist_checkpointing holds a whole model. A conversion
needs one tensor at a time, so this reads and writes the same files (torch's distributed checkpoint
format, which dist_checkpointing calls `torch_dist`) through torch's own planners.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import WriteItem, WriteItemType

from owl.checkpoint.tensor_spec import TensorSpec
from owl.errors import CheckpointError

# Beside weights, a training checkpoint holds tensors under this name; they are no weights.
_OPTIMIZER = "optimizer."


class CheckpointTensors:
    """The weights of a checkpoint, whatever layout saved it, under an unsplit model's names.

    Args:
        checkpoint: folder of the checkpoint.

    Raises:
        CheckpointError: it cannot be read.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self._reader = _Reader(checkpoint)
        try:
            stored = self._reader.read_metadata().state_dict_metadata
        except (OSError, EOFError, ValueError) as error:
            raise CheckpointError(
                f"{checkpoint / '.metadata'} cannot be read ({error}). Give a whole checkpoint, "
                f"such as runs/stage1/checkpoints/step_00000100."
            ) from error
        self.specs = {
            name: TensorSpec(tuple(about.size), about.properties.dtype)
            for name, about in stored.items()
            if isinstance(about, TensorStorageMetadata) and not name.startswith(_OPTIMIZER)
        }
        """Name to shape and dtype. The vocabulary may carry padding rows of the layout."""

    def read(self, name: str) -> Tensor:
        """Read one weight whole, put together from the shards of all ranks."""
        spec = self.specs[name]
        tensor = torch.empty(spec.shape, dtype=spec.dtype)
        try:
            with _alone():
                dcp.load({name: tensor}, storage_reader=self._reader, no_dist=True)
        except CheckpointException as error:  # torch wraps what it meets, whatever it is
            reasons = "; ".join(repr(reason) for reason, _ in error.failures.values())
            raise CheckpointError(
                f"{name} cannot be read from {self.checkpoint} ({reasons}). A file of the "
                f"checkpoint is missing or damaged: take another checkpoint."
            ) from error
        return tensor


def write_weights(
    folder: Path,
    specs: Mapping[str, TensorSpec],
    read: Callable[[str], Tensor],
    objects: Mapping[str, Any],
) -> None:
    """Write a checkpoint's weights as dist_checkpointing does, holding one of them at a time.

    Args:
        folder: exists and is empty.
        specs: every weight, under the name it has in an unsplit model.
        read: gives the weight of a name; called once for each.
        objects: what dist_checkpointing stores beside tensors, by its unique key.
    """
    content: dict[str, Any] = {name: [value] for name, value in objects.items()}
    for name, spec in specs.items():
        content[name] = torch.empty(spec.shape, dtype=spec.dtype, device="meta")
    writer = dcp.FileSystemWriter(folder, single_file_per_rank=True, thread_count=1)
    try:
        with _alone():
            dcp.save(content, storage_writer=writer, planner=_LazyPlanner(read), no_dist=True)
    except CheckpointException as error:  # what `read` or the disk said, Ctrl-C included
        raise next(iter(error.failures.values()))[0] from None
    torch.save({}, folder / "common.pt")
    save_config(CheckpointingConfig("torch_dist"), str(folder))


@contextmanager
def _alone() -> Iterator[None]:
    """Keep torch from warning that one process reads or writes alone: that is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


class _Reader(dcp.FileSystemReader):
    """Reads the checkpoint's table of contents once, not once for each tensor."""

    _metadata: Metadata | None = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        if self._metadata is None:
            self._metadata = super().read_metadata(*args, **kwargs)
        return self._metadata


class _LazyPlanner(dcp.DefaultSavePlanner):
    """Gets each weight when its turn to be written comes: the plan is made of empty ones."""

    def __init__(self, read: Callable[[str], Tensor]) -> None:
        super().__init__(flatten_state_dict=False)
        self._read = read

    def resolve_data(self, write_item: WriteItem) -> Any:
        if write_item.type is WriteItemType.BYTE_IO:
            return super().resolve_data(write_item)
        return self._read(write_item.index.fqn)
