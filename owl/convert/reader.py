# SPDX-License-Identifier: Apache-2.0
"""Read Hugging Face folders tensor by tensor: one file or many, never a whole model in memory."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from owl.errors import CheckpointError


class HfFolder:
    """A folder with config.json and safetensors files, as transformers writes it.

    Args:
        folder: the folder.

    Raises:
        CheckpointError: config.json or the weights are missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        config = folder / "config.json"
        if not config.is_file():
            raise CheckpointError(
                f"{config} does not exist. Give a folder as transformers' save_pretrained writes "
                f"it: config.json and model.safetensors."
            )
        self.config: Mapping[str, Any] = json.loads(config.read_text())
        self._files = dict(self._find_tensors())

    @property
    def names(self) -> list[str]:
        """Names of all tensors, in the order of the files."""
        return list(self._files)

    def read(self, name: str) -> Tensor:
        """Read one tensor."""
        if name not in self._files:
            raise CheckpointError(f"{self.folder} has no tensor {name}.")
        with safe_open(self.folder / self._files[name], framework="pt") as file:
            return file.get_tensor(name)

    def _find_tensors(self) -> Iterator[tuple[str, str]]:
        index = self.folder / "model.safetensors.index.json"
        if index.is_file():
            yield from json.loads(index.read_text())["weight_map"].items()
            return
        single = self.folder / "model.safetensors"
        if not single.is_file():
            raise CheckpointError(
                f"{self.folder} holds neither model.safetensors nor model.safetensors.index.json. "
                f"Older *.bin files: load them with transformers and save_pretrained them again."
            )
        with safe_open(single, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                yield name, single.name
