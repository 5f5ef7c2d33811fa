# SPDX-License-Identifier: Apache-2.0
"""Read and write safetensors files tensor by tensor.

The format is a length, a JSON header and the bytes. safetensors' own save_file needs all values of
a file at once, and its reader maps files into memory, where pages accumulate. Here rows are read
into memory that the caller provides, and written to the place that was reserved for them when the
file was created. Order and header are those of save_file: the files are the same, byte for byte.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from owl.checkpoint.tensor_spec import TensorSpec
from owl.errors import CheckpointError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""Names of the number formats that weights come in."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNMENT = 8  # the header is padded with spaces so that values start at a multiple
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Place:
    """Where a tensor is in a file."""

    spec: TensorSpec
    begin: int  # bytes from the start of the file


def read_places(path: Path) -> dict[str, Place]:
    """Find every tensor of a file, in the order of the file.

    Raises:
        CheckpointError: the file is damaged, or holds something other than weights.
    """
    try:
        with safe_open(path, framework="pt") as file:  # checks the header and the file's length
            slices = {name: file.get_slice(name) for name in file.offset_keys()}
            specs = {name: _spec(path, name, tensor) for name, tensor in slices.items()}
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file ({error}). Download it again."
        ) from error
    with path.open("rb") as header:
        begin = 8 + int.from_bytes(header.read(8), "little")
    places = {}
    for name, spec in specs.items():  # the format allows no gaps
        places[name] = Place(spec, begin)
        begin += spec.nbytes
    return places


def _spec(path: Path, name: str, tensor: Any) -> TensorSpec:
    kind = tensor.get_dtype()
    if kind not in DTYPES:
        raise CheckpointError(
            f"{name} in {path} has dtype {kind}. Weights come as {', '.join(DTYPES)}: convert a "
            f"quantised model back before."
        )
    return TensorSpec(tuple(tensor.get_shape()), DTYPES[kind])


def read_rows(path: Path, place: Place, first: int, rows: Tensor) -> None:
    """Fill `rows`, which is contiguous, with a tensor's rows from `first` on."""
    view = _bytes(rows)
    with path.open("rb", buffering=0) as file:
        file.seek(place.begin + first * place.spec.row_bytes)
        while view:
            count = file.readinto(view)
            if not count:
                raise CheckpointError(f"{path} became shorter while it was read.")
            view = view[count:]


def _bytes(tensor: Tensor) -> memoryview:
    """View a contiguous tensor's memory as bytes."""
    return tensor.view(-1).view(torch.uint8).numpy().data


class SafetensorsFile:
    """One file whose tensors are written in any order.

    Args:
        path: file to make.
        specs: all its tensors.
    """

    def __init__(self, path: Path, specs: Mapping[str, TensorSpec]) -> None:
        self.path, self._specs = path, specs
        self._missing = {name: spec.nbytes for name, spec in specs.items()}
        self._offsets, end = _offsets(specs)
        header = _header(specs, self._offsets)
        self._start = len(header)
        with path.open("wb") as file:
            file.write(header)
            file.truncate(self._start + end)

    def write(self, name: str, tensor: Tensor) -> None:
        """Write one tensor."""
        spec = self._specs[name]
        assert tuple(tensor.shape) == spec.shape, f"{name}: expected shape {spec.shape}"
        self.write_rows(name, 0, tensor)

    def write_rows(self, name: str, first: int, rows: Tensor) -> None:
        """Write some rows of a tensor, from row `first` on."""
        spec = self._specs[name]
        fits = (spec.dtype, spec.shape[1:]) == (rows.dtype, tuple(rows.shape[1:]))
        assert fits, f"{name}: expected rows of {spec}, not {tuple(rows.shape)} in {rows.dtype}"
        self._missing[name] -= rows.nbytes
        with self.path.open("r+b") as file:  # not kept open: an export may have many files
            file.seek(self._start + self._offsets[name] + first * spec.row_bytes)
            file.write(_bytes(rows.contiguous()))

    def close(self) -> None:
        """Check that every byte of every tensor was written, once."""
        missing = sorted(name for name, nbytes in self._missing.items() if nbytes)
        assert not missing, f"{self.path.name} lacks {missing}"


class ShardedSafetensors:
    """A model's files: `model.safetensors`, or several of at most `shard_bytes` with an index.

    Args:
        folder: where the files are written.
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
        """Write one tensor."""
        self._files[name].write(name, tensor)

    def write_rows(self, name: str, first: int, rows: Tensor) -> None:
        """Write some rows of a tensor, from row `first` on."""
        self._files[name].write_rows(name, first, rows)

    def close(self) -> None:
        """Check that every tensor was written."""
        for file in set(self._files.values()):
            file.close()

    def _write_index(self, path: Path, total: int) -> None:
        places = {name: file.path.name for name, file in sorted(self._files.items())}
        index: dict[str, Any] = {"metadata": {"total_size": total}, "weight_map": places}
        path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _cut(specs: Mapping[str, TensorSpec], shard_bytes: int) -> Iterator[dict[str, TensorSpec]]:
    """Divide tensors into files in order, each up to the bound."""
    shard: dict[str, TensorSpec] = {}
    used = 0
    for name, spec in specs.items():
        if shard and used + spec.nbytes > shard_bytes:
            yield shard
            shard, used = {}, 0
        shard[name] = spec
        used += spec.nbytes
    yield shard


def _offsets(specs: Mapping[str, TensorSpec]) -> tuple[dict[str, int], int]:
    """Return each tensor's offset, widest dtype first, then by name; and the end of the last."""
    offsets: dict[str, int] = {}
    end = 0
    for name in sorted(specs, key=lambda name: (-specs[name].dtype.itemsize, name)):
        offsets[name] = end
        end += specs[name].nbytes
    return offsets, end


def _header(specs: Mapping[str, TensorSpec], offsets: Mapping[str, int]) -> bytes:
    """Return the length of the header and the header."""
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
