# SPDX-License-Identifier: Apache-2.0
"""Folders whose weights are *.bin files of torch.save."""

import json
from pathlib import Path

import pytest
import torch

from owl.convert.files.reader import HfFolder
from owl.errors import CheckpointError


class Harmful:
    """Pickled, it asks for a file to be made."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def write_bin(folder: Path, *files: dict) -> Path:
    """Write a folder of one or several *.bin files."""
    (folder / "config.json").write_text("{}")
    if len(files) == 1:
        torch.save(files[0], folder / "pytorch_model.bin")
        return folder
    names = [f"pytorch_model-{i + 1}-of-{len(files)}.bin" for i in range(len(files))]
    for name, tensors in zip(names, files, strict=True):
        torch.save(tensors, folder / name)
    index = {tensor: name for name, file in zip(names, files, strict=True) for tensor in file}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


FIRST = {"a": torch.arange(12.0).view(6, 2).half(), "b": torch.arange(3).float()}
SECOND = {"c": torch.ones(2, 4).bfloat16().t(), "d": torch.tensor(5.0)}


@pytest.mark.parametrize("files", [(FIRST | SECOND,), (FIRST, SECOND)], ids=["one", "many"])
def test_tensors_are_read_by_name_and_by_rows(tmp_path, files):
    folder = HfFolder(write_bin(tmp_path, *files))

    assert list(folder.specs) == ["a", "b", "c", "d"]
    for name, expected in (FIRST | SECOND).items():
        tensor = folder.read(name)
        assert tensor.dtype == expected.dtype
        assert torch.equal(tensor, expected)
    rows = torch.empty(2, 2, dtype=torch.half)
    folder.read_rows("a", 3, rows)
    assert torch.equal(rows, FIRST["a"][3:5])


def test_safetensors_are_preferred(tmp_path):
    from safetensors.torch import save_file

    write_bin(tmp_path, {"old": torch.ones(1)})
    save_file({"new": torch.ones(1)}, tmp_path / "model.safetensors")

    assert list(HfFolder(tmp_path).specs) == ["new"]


def test_a_pickle_that_wants_to_act_is_refused(tmp_path):
    write_bin(tmp_path, {"a": Harmful(tmp_path / "acted")})

    with pytest.raises(CheckpointError, match="nothing of it was executed"):
        HfFolder(tmp_path)

    assert not (tmp_path / "acted").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.ones(1), "step": 3}, "holds step: each entry must be a tensor"),
        ({"a": torch.ones(3, dtype=torch.int8)}, "a in .* has dtype torch.int8"),
        (torch.ones(1), "holds no names of tensors"),
    ],
)
def test_a_file_of_something_else_is_named(tmp_path, content, message):
    (tmp_path / "config.json").write_text("{}")
    torch.save(content, tmp_path / "pytorch_model.bin")

    with pytest.raises(CheckpointError, match=message):
        HfFolder(tmp_path)


@pytest.mark.parametrize("kept", [0, 10, 600])
def test_a_truncated_file_is_named(tmp_path, kept):
    write_bin(tmp_path, {"a": torch.ones(1000)})
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:kept])

    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin .*Download it again"):
        HfFolder(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    write_bin(tmp_path, FIRST, SECOND)
    (tmp_path / "pytorch_model-2-of-2.bin").unlink()

    with pytest.raises(CheckpointError, match=r"pytorch_model-2-of-2\.bin does not exist"):
        HfFolder(tmp_path)
