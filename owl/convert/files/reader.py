# SPDX-License-Identifier: Apache-2.0
"""Read Hugging Face folders tensor by tensor, so that no complete model is in memory."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from owl.checkpoint.tensor_spec import TensorSpec
from owl.convert.files import torch_file
from owl.convert.files.safetensors_file import INDEX, Place, read_places, read_rows
from owl.errors import CheckpointError

LAYOUTS = {INDEX: "model.safetensors", torch_file.INDEX: torch_file.SINGLE}
"""Index of many files to the name of a single one, the preferred layout first."""


class WeightReader:
    """Files of weights, safetensors or torch's *.bin, that read like one.

    All headers are read at once: a truncated or missing file is found before any work is done.

    Args:
        files: the files.
    """

    def __init__(self, *files: Path) -> None:
        self._files: dict[str, Path] = {}
        self._places: dict[str, Place] = {}
        self.specs: dict[str, TensorSpec] = {}
        """Name to shape and dtype, in the order of the files."""
        for file in files:
            if not file.is_file():
                raise CheckpointError(
                    f"{file} does not exist, but the index names it. Download the missing file."
                )
            specs = self._specs(file)
            self._files |= dict.fromkeys(specs, file)
            self.specs |= specs

    def read(self, name: str) -> Tensor:
        """Read one tensor."""
        spec = self.specs[name]
        tensor = torch.empty(spec.shape, dtype=spec.dtype)
        self.read_rows(name, 0, tensor)
        return tensor

    def read_rows(self, name: str, first: int, rows: Tensor) -> None:
        """Fill `rows`, which is contiguous, with a tensor's rows from `first` on."""
        if name in self._places:
            read_rows(self._files[name], self._places[name], first, rows)
            return
        rows.copy_(torch_file.read_scattered(self._files[name], name)[first : first + len(rows)])

    def _specs(self, file: Path) -> dict[str, TensorSpec]:
        if file.suffix == ".bin":
            specs, places = torch_file.read_places(file)
        else:
            places = read_places(file)
            specs = {name: place.spec for name, place in places.items()}
        self._places |= places
        return specs


class HfFolder(WeightReader):
    """A folder with config.json and weights, as transformers writes it.

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
        for index, single in LAYOUTS.items():
            if (folder / index).is_file():
                listed = _weight_map(folder / index)
                super().__init__(*(folder / file for file in dict.fromkeys(listed.values())))
                self._check_index(folder / index, listed)
                return
            if (folder / single).is_file():
                super().__init__(folder / single)
                return
        raise CheckpointError(
            f"{folder} contains no weights: none of {', '.join((*LAYOUTS.values(), *LAYOUTS))}. "
            "Download them."
        )

    def read(self, name: str) -> Tensor:
        """Read one tensor; CheckpointError where there is none of that name."""
        if name not in self.specs:
            raise CheckpointError(f"{self.folder} has no tensor {name}.")
        return super().read(name)

    def _check_index(self, index: Path, listed: Mapping[str, str]) -> None:
        """Check that every tensor is in the file that the index names."""
        for name, file in listed.items():
            found = self._files[name].name if name in self._files else "no file"
            if found != file:
                raise CheckpointError(
                    f"{index} lists {name} in {file}, but it is in {found}. "
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
