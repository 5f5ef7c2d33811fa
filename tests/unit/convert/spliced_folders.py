# SPDX-License-Identifier: Apache-2.0
"""Small folders as mPLUG-Owl2 and mPLUG-Owl were published: one file a decoder layer, and one."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from owl.config.run import ModelConfig
from owl.convert.families import PUBLISHED, weight_table

GOLDEN = Path(__file__).parents[2] / "golden"
INDEX = {"bin": "pytorch_model.bin.index.json", "safetensors": "model.safetensors.index.json"}


def published_config(family: str) -> dict[str, Any]:
    return json.loads((GOLDEN / family / "config.json").read_text())


def model_of(family: str, config: dict[str, Any]) -> ModelConfig:
    return PUBLISHED[family].read_config(config, [], "small")


def random_tensors(
    family: str, config: dict[str, Any], *, without: str = "nothing"
) -> dict[str, Tensor]:
    """Draw every published tensor in half precision, the constants among them in float32."""
    generator = torch.Generator().manual_seed(0)
    table = weight_table(PUBLISHED[family], model_of(family, config))
    tensors = {}
    for name, shape in table.shapes.items():
        values = torch.randn(shape, generator=generator) * 0.1
        tensors[name] = values if name in table.carried else values.half()
    return {name: tensor for name, tensor in tensors.items() if without not in name}


def write_folder(
    folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], *, suffix: str
) -> Path:
    """Write a folder with an index."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    files: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer = re.match(r"(?:language_model\.)?model\.layers\.(\d+)\.", name)
        files.setdefault(f"model-{layer[1] if layer else 'rest'}.{suffix}", {})[name] = tensor
    for file, content in files.items():
        (torch.save if suffix == "bin" else save_file)(content, folder / file)
    places = {name: file for file, content in files.items() for name in content}
    (folder / INDEX[suffix]).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder
