# SPDX-License-Identifier: Apache-2.0
"""Read and write safetensors files tensor by tensor.

The format is a length, a JSON header and the bytes. safetensors' own save_file wants all values of
a file at once, and its reader maps files into memory, where pages pile up. Here a tensor is read
into memory of its own, and written to the place that was made for it when the file was begun.
Order and header are those of save_file: the files are the same, byte for byte.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from owl.checkpoint.tensor_spec import TensorSpec
from owl.errors import CheckpointError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""The format's names of the number formats that weights come in."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNMENT = 8  # the header is padded with spaces so that values start at a multiple
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a file."""

    spec: TensorSpec
    begin: int  # bytes from the start of the file


def read_header(path: Path) -> dict[str, Place]:
    """Find every tensor of a file, in the order of the file.

    Raises:
        CheckpointError: the file is damaged, or holds something else than weights.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length < path.stat().st_size else None
        if not isinstance(header, dict):
            raise ValueError("the header is longer than the file")
        header.pop("__metadata__", None)
        start = 8 + length
        ends = [about["data_offsets"][1] for about in header.values()]
        if path.stat().st_size != start + max(ends, default=0):
            raise ValueError(f"{path.stat().st_size:,} bytes, not {start + max(ends):,}")
        places = {name: _place(path, name, about, start) for name, about in header.items()}
    except KeyError as error:
        raise _not_whole(path, f"its header lacks {error}") from error
    except (ValueError, TypeError) as error:
        raise _not_whole(path, str(error)) from error
    return dict(sorted(places.items(), key=lambda item: item[1].begin))


def _not_whole(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is not a whole safetensors file ({why}). Download it again.")


def _place(path: Path, name: str, about: Any, start: int) -> Place:
    kind = about["dtype"]
    if kind not in DTYPES:
        raise CheckpointError(
            f"{name} in {path} has dtype {kind}. Weights come as {', '.join(DTYPES)}: convert a "
            f"quantised model back before."
        )
    spec = TensorSpec(tuple(about["shape"]), DTYPES[kind])
    begin, end = about["data_offsets"]
    if end - begin != spec.nbytes:
        raise CheckpointError(
            f"{name} in {path} has {end - begin:,} bytes, but shape {spec.shape} and dtype {kind} "
            f"take {spec.nbytes:,}. Download the file again."
        )
    return Place(spec, start + begin)


def read_tensor(path: Path, place: Place) -> Tensor:
    """Read one tensor into memory of its own."""
    tensor = torch.empty(place.spec.shape, dtype=place.spec.dtype)
    read_rows(path, place, 0, tensor)
    return tensor


def read_rows(path: Path, place: Place, first: int, rows: Tensor) -> None:
    """Fill `rows`, which is contiguous, with a tensor's rows from `first` on."""
    offset, view = place.begin + first * place.spec.row_bytes, memoryview(_bytes(rows))
    with _descriptor(path, os.O_RDONLY) as file:
        while view:
            count = os.preadv(file, [view], offset)
            if not count:
                raise CheckpointError(f"{path} became shorter while it was read.")
            offset, view = offset + count, view[count:]


@contextmanager
def _descriptor(path: Path, flags: int) -> Iterator[int]:
    """Open a file as the system does: python's file objects cost more than moving a short run."""
    file = os.open(path, flags)
    try:
        yield file
    finally:
        os.close(file)


def _bytes(tensor: Tensor) -> Any:
    """View a contiguous tensor's memory as bytes."""
    return tensor.view(-1).view(torch.uint8).numpy()


class SafetensorsFile:
    """One file whose tensors are written in any order.

    Args:
        path: file to make.
        specs: all its tensors.
    """

    def __init__(self, path: Path, specs: Mapping[str, TensorSpec]) -> None:
        self.path, self._specs = path, specs
        self._missing = {name: spec.nbytes for name, spec in specs.items()}
        self._offsets, end = _lay_out(specs)
        header = _header(specs, self._offsets)
        self._start = len(header)
        with path.open("wb") as file:
            file.write(header)
            file.truncate(self._start + end)

    def write(self, name: str, tensor: Tensor) -> None:
        """Put one tensor into its place."""
        spec = self._specs[name]
        assert tuple(tensor.shape) == spec.shape, f"{name}: room was made for {spec.shape}"
        self.write_rows(name, 0, tensor)

    def write_rows(self, name: str, first: int, rows: Tensor) -> None:
        """Put some rows of a tensor into their place."""
        spec = self._specs[name]
        found = TensorSpec(tuple(rows.shape), rows.dtype)
        fits = (spec.dtype, spec.shape[1:]) == (rows.dtype, tuple(rows.shape[1:]))
        assert fits, f"{name}: room was made for rows of {spec}, not of {found}"
        self._missing[name] -= found.nbytes
        offset = self._start + self._offsets[name] + first * spec.row_bytes
        view = memoryview(_bytes(rows.contiguous()))
        with _descriptor(self.path, os.O_WRONLY) as file:
            while view:
                count = os.pwrite(file, view, offset)
                offset, view = offset + count, view[count:]

    def close(self) -> None:
        """Check that every byte of every tensor has come, once."""
        lacking = sorted(name for name, nbytes in self._missing.items() if nbytes)
        assert not lacking, f"{self.path.name} lacks {lacking}"


class ShardedSafetensors:
    """A model's files: `model.safetensors`, or several of at most `shard_bytes` with an index.

    Args:
        folder: where they go.
        specs: all tensors, in the order in which they fill the files.
        shard_bytes: most bytes of values in a file; a larger tensor gets a file of its own.
    """

    def __init__(self, folder: Path, specs: Mapping[str, TensorSpec], shard_bytes: int) -> None:
        shards = list(_cut(specs, shard_bytes))
        self._files: dict[str, SafetensorsFile] = {}
        for number, shard in enumerate(shards, start=1):
            single = len(shards) == 1
            name = "model" if single else f"model-{number:05d}-of-{len(shards):05d}"
            file = SafetensorsFile(folder / f"{name}.safetensors", shard)
            self._files |= dict.fromkeys(shard, file)
        if len(shards) > 1:
            self._write_index(folder / INDEX, sum(spec.nbytes for spec in specs.values()))

    def write(self, name: str, tensor: Tensor) -> None:
        """Put one tensor into its file."""
        self._files[name].write(name, tensor)

    def write_rows(self, name: str, first: int, rows: Tensor) -> None:
        """Put some rows of a tensor into its file."""
        self._files[name].write_rows(name, first, rows)

    def close(self) -> None:
        """Check that every tensor has come."""
        for file in set(self._files.values()):
            file.close()

    def _write_index(self, path: Path, total: int) -> None:
        places = {name: file.path.name for name, file in sorted(self._files.items())}
        index: dict[str, Any] = {"metadata": {"total_size": total}, "weight_map": places}
        path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _cut(specs: Mapping[str, TensorSpec], shard_bytes: int) -> Iterator[dict[str, TensorSpec]]:
    """Fill files in order, each up to the bound."""
    shard: dict[str, TensorSpec] = {}
    used = 0
    for name, spec in specs.items():
        if shard and used + spec.nbytes > shard_bytes:
            yield shard
            shard, used = {}, 0
        shard[name] = spec
        used += spec.nbytes
    yield shard


def _lay_out(specs: Mapping[str, TensorSpec]) -> tuple[dict[str, int], int]:
    """Give each tensor its offset, widest dtype first, then by name; and the end of the last."""
    offsets: dict[str, int] = {}
    end = 0
    for name in sorted(specs, key=lambda name: (-specs[name].dtype.itemsize, name)):
        offsets[name] = end
        end += specs[name].nbytes
    return offsets, end


def _header(specs: Mapping[str, TensorSpec], offsets: Mapping[str, int]) -> bytes:
    """Write the length of the header and the header."""
    about: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name, begin in offsets.items():
        spec = specs[name]
        about[name] = {
            "dtype": _NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [begin, begin + spec.nbytes],
        }
    text = json.dumps(about, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
