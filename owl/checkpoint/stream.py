# SPDX-License-Identifier: Apache-2.0
"""Read and write the weights of a sharded checkpoint piece by piece, without a model.

Loading and saving through megatron-core's dist_checkpointing holds a complete model in memory, and
so does torch's own writer. A conversion needs one piece at a time, so this reads and writes the
same files: torch's distributed checkpoint format, which dist_checkpointing calls `torch_dist`. Each
piece of a tensor is a torch.save of its own, and `.metadata` records where it is.
"""

import gc
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader

# `.metadata` pickles this private class, so there is no other way to write one.
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.serialization import get_crc32_options, set_crc32_options

from owl.checkpoint.tensor_spec import TensorSpec
from owl.errors import CheckpointError

# Beside weights, a training checkpoint holds optimizer tensors under this prefix.
_OPTIMIZER = "optimizer."


class CheckpointTensors:
    """The weights of a checkpoint, saved in any layout, under an unsplit model's names.

    Args:
        checkpoint: folder of the checkpoint.

    Raises:
        CheckpointError: it cannot be read.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self._reader = _Reader(checkpoint)
        try:
            self._metadata: Any = self._reader.read_metadata()
        except (OSError, EOFError, ValueError) as error:
            raise CheckpointError(
                f"{checkpoint / '.metadata'} cannot be read ({error}). Give a complete checkpoint, "
                f"such as runs/stage1/checkpoints/step_00000100."
            ) from error
        self.specs = {
            name: TensorSpec(tuple(about.size), about.properties.dtype)
            for name, about in self._metadata.state_dict_metadata.items()
            if isinstance(about, TensorStorageMetadata) and not name.startswith(_OPTIMIZER)
        }
        """Name to shape and dtype. The vocabulary may have padding rows of the layout."""

    def read(self, name: str) -> Tensor:
        """Read one weight, assembled from the pieces that the ranks saved."""
        spec = self.specs[name]
        pieces = self._metadata.state_dict_metadata[name].chunks
        if len(pieces) == 1:  # no second copy
            return self._read_piece(name, pieces[0].offsets)
        weight = torch.empty(spec.shape, dtype=spec.dtype)
        for piece in pieces:
            place = tuple(
                slice(offset, offset + size)
                for offset, size in zip(piece.offsets, piece.sizes, strict=True)
            )
            weight[place] = self._read_piece(name, piece.offsets)
        return weight

    def pieces(self, name: str) -> Iterator[tuple[int, Tensor]]:
        """Read one weight in the pieces of complete rows that the ranks saved.

        In a single piece where ranks saved parts of rows. Drop a piece before asking for the next,
        and only one of them is in memory.

        Yields:
            Number of the first row, and rows.
        """
        spec = self.specs[name]
        stored = self._metadata.state_dict_metadata[name].chunks
        if any(piece.sizes[1:] != torch.Size(spec.shape[1:]) for piece in stored):
            yield 0, self.read(name)
            return
        for piece in stored:
            yield piece.offsets[0], self._read_piece(name, piece.offsets)

    def _read_piece(self, name: str, offsets: torch.Size) -> Tensor:
        place = self._metadata.storage_data[MetadataIndex(name, offsets)]
        path = self.checkpoint / place.relative_path
        try:
            with path.open("rb") as file:
                piece = torch.load(
                    self._reader.slice_file(file, place), map_location="cpu", weights_only=True
                )
        except Exception as error:  # torch.load raises a different one for each kind of damage
            raise CheckpointError(
                f"{name} cannot be read from {path} ({type(error).__name__}: {error}). The file is "
                f"missing or damaged: take another checkpoint."
            ) from error
        _free_cycles()
        return piece


def write_weights(
    folder: Path,
    specs: Mapping[str, TensorSpec],
    pieces: Callable[[str], Iterable[tuple[int, Tensor]]],
) -> None:
    """Write a checkpoint's weights as dist_checkpointing does, with one piece in memory.

    Args:
        folder: exists and is empty.
        specs: every weight, under the name it has in an unsplit model.
        pieces: returns the weight of a name in pieces of complete rows, each with the number of its
            first row.
    """
    path = folder / "__0_0.distcp"  # rank 0 and its first file, as torch names them
    metadata = Metadata(state_dict_metadata={}, storage_data={})
    with _no_checksums(), path.open("wb") as file:
        for name, spec in specs.items():
            stored = []
            for first, piece in pieces(name):
                start = torch.Size([first, *([0] * (piece.dim() - 1))])
                stored.append(ChunkStorageMetadata(offsets=start, sizes=piece.shape))
                begin = file.tell()
                _save(piece, file)
                metadata.storage_data[MetadataIndex(name, start)] = _StorageInfo(
                    path.name, begin, file.tell() - begin
                )
                del piece  # before the next one is made
                _free_cycles()
            metadata.state_dict_metadata[name] = TensorStorageMetadata(
                properties=TensorProperties(dtype=spec.dtype),
                size=torch.Size(spec.shape),
                chunks=stored,
            )
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    torch.save({}, folder / "common.pt")
    save_config(CheckpointingConfig("torch_dist"), str(folder))


def _save(piece: Tensor, file: IO[bytes]) -> None:
    """Call torch.save, whose error about an unfinished file would hide why it is unfinished."""
    try:
        torch.save(piece, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # such as a full disk
            raise error.__context__ from None
        raise


@contextmanager
def _no_checksums() -> Iterator[None]:
    """Omit zip's checksums: torch.load never compares them, and they take time."""
    before = get_crc32_options()
    set_crc32_options(False)
    try:
        yield
    finally:
        set_crc32_options(before)


def _free_cycles() -> None:
    """Free what torch.save and torch.load leave behind.

    Both define classes on each call: reference cycles that hold the tensor until the collector
    runs. It counts objects, not bytes, and would let gigabytes accumulate.
    """
    gc.collect(1)


class _Reader(FileSystemReader):
    def slice_file(self, file: IO[bytes], place: Any) -> IO[bytes]:
        """View one stored tensor as a file of its own."""
        return self._slice_file(file, place)
