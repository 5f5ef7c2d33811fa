# SPDX-License-Identifier: Apache-2.0
"""The weights of a sharded checkpoint piece by piece, both ways, without a model.

Loading and saving through megatron-core's dist_checkpointing holds a whole model, and so does
torch's own writer (until a file is closed). A conversion needs one piece at a time, so this reads
and writes the same files: torch's distributed checkpoint format, which dist_checkpointing calls
`torch_dist`. Each piece of a tensor is a torch.save of its own, and `.metadata` says where it lies.
"""

import gc
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import Lock
from typing import IO, Any

import torch
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader
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
from owl.checkpoint.threads import CancelCheck, in_threads, shares
from owl.errors import CheckpointError

LARGE = 32 * 2**20
"""Bytes of a piece from which on one thread at a time holds one."""

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
        self._one_large = Lock()
        self._reader = _Reader(checkpoint)
        try:
            self._metadata: Any = self._reader.read_metadata()
        except (OSError, EOFError, ValueError) as error:
            raise CheckpointError(
                f"{checkpoint / '.metadata'} cannot be read ({error}). Give a whole checkpoint, "
                f"such as runs/stage1/checkpoints/step_00000100."
            ) from error
        self.specs = {
            name: TensorSpec(tuple(about.size), about.properties.dtype)
            for name, about in self._metadata.state_dict_metadata.items()
            if isinstance(about, TensorStorageMetadata) and not name.startswith(_OPTIMIZER)
        }
        """Name to shape and dtype. The vocabulary may carry padding rows of the layout."""

    def read(self, name: str) -> Tensor:
        """Read one weight whole, put together from the pieces that the ranks saved."""
        spec = self.specs[name]
        pieces = self._metadata.state_dict_metadata[name].chunks
        if len(pieces) == 1:  # no second copy
            return self._read_piece(name, pieces[0].offsets)
        whole = torch.empty(spec.shape, dtype=spec.dtype)
        for piece in pieces:
            place = tuple(
                slice(offset, offset + size)
                for offset, size in zip(piece.offsets, piece.sizes, strict=True)
            )
            whole[place] = self._read_piece(name, piece.offsets)
        return whole

    def use_pieces(
        self, name: str, use: Callable[[int, Tensor], None], raise_if_cancelled: CancelCheck
    ) -> None:
        """Read one weight in pieces of whole rows, and hand over each, as they were saved.

        Whole where ranks saved parts of rows. Threads may call it; large pieces take turns.

        Args:
            name: of the weight.
            use: gets the number of a piece's first row and the piece, which it may not keep: the
                next one is read when it returns.
            raise_if_cancelled: called before each piece; may raise.
        """
        spec = self.specs[name]
        stored = self._metadata.state_dict_metadata[name].chunks
        if any(piece.sizes[1:] != torch.Size(spec.shape[1:]) for piece in stored):
            with self._turn(spec.nbytes):
                raise_if_cancelled()
                use(0, self.read(name))
            return
        for piece in stored:
            with self._turn(TensorSpec(tuple(piece.sizes), spec.dtype).nbytes):
                raise_if_cancelled()
                use(piece.offsets[0], self._read_piece(name, piece.offsets))

    def _turn(self, nbytes: int) -> AbstractContextManager[Any]:
        """Wait until no other thread holds a large piece, if this one is."""
        return self._one_large if nbytes > LARGE else nullcontext()

    def _read_piece(self, name: str, offsets: torch.Size) -> Tensor:
        place = self._metadata.storage_data[MetadataIndex(name, offsets)]
        path = self.checkpoint / place.relative_path
        try:
            with path.open("rb") as file:
                piece = torch.load(
                    self._reader.slice_file(file, place), map_location="cpu", weights_only=True
                )
        except Exception as error:  # each kind of damage has its own in torch.load
            raise CheckpointError(
                f"{name} cannot be read from {path} ({type(error).__name__}: {error}). The file is "
                f"missing or damaged: take another checkpoint."
            ) from error
        _forget_cycles()
        return piece


def write_weights(
    folder: Path,
    specs: Mapping[str, TensorSpec],
    pieces: Callable[[str], Iterable[tuple[int, Tensor]]],
) -> None:
    """Write a checkpoint's weights as dist_checkpointing does, holding a piece a thread.

    Args:
        folder: exists and is empty.
        specs: every weight, under the name it has in an unsplit model.
        pieces: gives the weight of a name in pieces of whole rows, each with the number of its
            first row; called once for each, in several threads.
    """
    shared = shares({name: spec.nbytes for name, spec in specs.items()})

    def pieces_until_cancelled(
        name: str, raise_if_cancelled: CancelCheck
    ) -> Iterator[tuple[int, Tensor]]:
        for piece in pieces(name):
            raise_if_cancelled()
            yield piece

    def write_share(number: int, names: Sequence[str], raise_if_cancelled: CancelCheck) -> Metadata:
        path = folder / f"__0_{number}.distcp"  # rank 0 and a file of it, as torch names them
        weights = (
            (name, specs[name], pieces_until_cancelled(name, raise_if_cancelled)) for name in names
        )
        return _write_file(path, weights)

    whole = Metadata(state_dict_metadata={}, storage_data={})
    for written in in_threads(write_share, shared):
        whole.state_dict_metadata |= written.state_dict_metadata
        whole.storage_data |= written.storage_data
    (folder / ".metadata").write_bytes(pickle.dumps(whole))
    torch.save({}, folder / "common.pt")
    save_config(CheckpointingConfig("torch_dist"), str(folder))


def _write_file(
    path: Path, weights: Iterable[tuple[str, TensorSpec, Iterable[tuple[int, Tensor]]]]
) -> Metadata:
    """Write weights into one file; returns what `.metadata` has to say of them."""
    written = Metadata(state_dict_metadata={}, storage_data={})
    with _no_checksums(), path.open("wb") as file:
        for name, spec, pieces in weights:
            stored = []
            for first, piece in pieces:
                start = torch.Size([first, *([0] * (piece.dim() - 1))])
                stored.append(ChunkStorageMetadata(offsets=start, sizes=piece.shape))
                begin = file.tell()
                _save(piece, file)
                written.storage_data[MetadataIndex(name, start)] = _StorageInfo(
                    path.name, begin, file.tell() - begin
                )
                _forget_cycles()
            written.state_dict_metadata[name] = TensorStorageMetadata(
                properties=TensorProperties(dtype=spec.dtype),
                size=torch.Size(spec.shape),
                chunks=stored,
            )
    return written


def _save(piece: Tensor, file: IO[bytes]) -> None:
    """Call torch.save, whose error about an unfinished file would hide why it is unfinished."""
    try:
        torch.save(piece, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # the disk is full, for one
            raise error.__context__ from None
        raise


@contextmanager
def _no_checksums() -> Iterator[None]:
    """Leave out zip's checksums: torch.load never compares them, and they take time.

    torch keeps the option thread by thread.
    """
    before = get_crc32_options()
    set_crc32_options(False)
    try:
        yield
    finally:
        set_crc32_options(before)


def _forget_cycles() -> None:
    """Free what torch.save and torch.load leave behind.

    Both define classes on each call: reference cycles that hold the tensor until the collector
    runs. It counts objects, not bytes, and would let gigabytes wait.
    """
    gc.collect(1)


class _Reader(FileSystemReader):
    def slice_file(self, file: IO[bytes], place: Any) -> IO[bytes]:
        """View one stored tensor as a file of its own."""
        return self._slice_file(file, place)
