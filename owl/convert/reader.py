# SPDX-License-Identifier: Apache-2.0
"""Read Hugging Face folders tensor by tensor, so that no complete model is in memory."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from owl.convert.safetensors_file import INDEX, Place, read_places, read_rows, read_tensor
from owl.errors import CheckpointError


class SafetensorsReader:
    """Safetensors files that read like one.

    All headers are read at once: a truncated or missing file is found before any work is done.

    Args:
        files: the files.
    """

    def __init__(self, *files: Path) -> None:
        self._places: dict[str, tuple[Path, Place]] = {}
        for file in files:
            if not file.is_file():
                raise CheckpointError(
                    f"{file} does not exist, but {INDEX} names it. Download the missing file."
                )
            self._places |= {name: (file, place) for name, place in read_places(file).items()}
        self.specs = {name: place.spec for name, (_, place) in self._places.items()}
        """Name to shape and dtype, in the order of the files."""

    def read(self, name: str) -> Tensor:
        """Read one tensor."""
        return read_tensor(*self._places[name])

    def read_rows(self, name: str, first: int, rows: Tensor) -> None:
        """Fill `rows`, which is contiguous, with a tensor's rows from `first` on."""
        read_rows(*self._places[name], first, rows)


class HfFolder(SafetensorsReader):
    """A folder with config.json and safetensors files, as transformers writes it.

    Args:
        folder: the folder.

    Raises:
        CheckpointError: config.json or the weights are missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if folder.is_file():
            raise CheckpointError(f"{folder} is a file. Name the folder that contains it.")
        if (folder / ".metadata").is_file():
            raise CheckpointError(
                f"{folder} is a checkpoint, not a Hugging Face folder. Convert it first with "
                "python -m owl.convert export."
            )
        self.config: Mapping[str, Any] = _read_json(
            folder / "config.json",
            "Give a folder as transformers' save_pretrained writes it: config.json and "
            "model.safetensors.",
        )
        index, single = folder / INDEX, folder / "model.safetensors"
        if index.is_file():
            listed = _weight_map(index)
            super().__init__(*(folder / file for file in dict.fromkeys(listed.values())))
            self._check_index(listed)
        elif single.is_file():
            super().__init__(single)
        else:
            raise CheckpointError(
                f"{folder} contains neither model.safetensors nor {INDEX}. Older *.bin files: "
                f"load them with transformers and save_pretrained them again."
            )

    def read(self, name: str) -> Tensor:
        """Read one tensor; CheckpointError where there is none of that name."""
        if name not in self.specs:
            raise CheckpointError(f"{self.folder} has no tensor {name}.")
        return super().read(name)

    def _check_index(self, listed: Mapping[str, str]) -> None:
        """Check that every tensor is in the file that the index names."""
        for name, file in listed.items():
            found = self._places[name][0].name if name in self._places else "no file"
            if found != file:
                raise CheckpointError(
                    f"{self.folder / INDEX} lists {name} in {file}, but it is in {found}. "
                    f"Download the folder again."
                )


def _read_json(path: Path, next_step: str) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist. {next_step}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}). Download it again.") from error
    if not isinstance(values, dict):
        raise CheckpointError(
            f"{path} contains a {type(values).__name__}, not names with values. Download it again."
        )
    return values


def _weight_map(index: Path) -> Mapping[str, str]:
    """Read the file of each tensor."""
    places = _read_json(index, "").get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise CheckpointError(
            f"{index} has no weight_map that names the file of each tensor. Download it again."
        )
    return places
