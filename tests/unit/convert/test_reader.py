# SPDX-License-Identifier: Apache-2.0
"""Hugging Face folders, in one file or in many."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from owl.convert.files.reader import HfFolder
from owl.errors import CheckpointError


def write_folder(folder: Path, files: dict[str, dict[str, torch.Tensor]]) -> Path:
    (folder / "config.json").write_text(json.dumps({"hidden_size": 4}))
    for file, tensors in files.items():
        save_file(tensors, folder / file)
    if len(files) > 1:
        index = {name: file for file, tensors in files.items() for name in tensors}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


@pytest.mark.parametrize("files", [["model"], ["model-1", "model-2"]], ids=["one", "many"])
def test_tensors_are_read_by_name(tmp_path, files):
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2)}
    share = {f"{file}.safetensors": dict(list(tensors.items())[i::len(files)])
             for i, file in enumerate(files)}  # fmt: skip

    folder = HfFolder(write_folder(tmp_path, share))

    assert folder.config["hidden_size"] == 4
    assert sorted(folder.specs) == ["a", "b"]
    assert all(torch.equal(folder.read(name), tensors[name]) for name in tensors)


def test_a_missing_tensor_is_named(tmp_path):
    folder = HfFolder(write_folder(tmp_path, {"model.safetensors": {"a": torch.ones(1)}}))

    with pytest.raises(CheckpointError, match=r"has no tensor model\.norm\.weight"):
        folder.read("model.norm.weight")


def test_a_folder_without_config_says_what_is_wanted(tmp_path):
    with pytest.raises(CheckpointError, match="save_pretrained"):
        HfFolder(tmp_path)


def test_a_folder_without_weights_says_what_is_wanted(tmp_path):
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(CheckpointError, match=r"none of model\.safetensors, pytorch_model\.bin"):
        HfFolder(tmp_path)
