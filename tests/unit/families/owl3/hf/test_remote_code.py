# SPDX-License-Identifier: Apache-2.0
"""A folder with a copy of the code works where owl is not installed."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from owl.hf import Owl3ForConditionalGeneration
from owl.hf.remote_code import AUTO_MAP, code_files, copy_code, travelling

SCRIPT = """
import sys
import torch
sys.modules["owl"] = None  # importing it now fails, installed or not
from transformers import AutoModelForCausalLM, AutoProcessor
folder = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
messages = [{"role": "user", "content": "<|image|>?"}, {"role": "assistant", "content": ""}]
inputs = processor(messages, images=[torch.full((9, 9, 3), 99, dtype=torch.uint8)])
logits = model(**inputs).logits
assert len(model.generate(**inputs, max_new_tokens=2, do_sample=False)) == 1
model.save_pretrained(sys.argv[2])
torch.save(logits.detach(), sys.argv[2] + "/logits.pt")
"""


def imports_of(file: Path) -> set[str]:
    """Name what a module imports once it lies in an exported folder."""
    found = set()
    for node in ast.walk(ast.parse(travelling(file.read_text(encoding="utf-8")))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add(f".{node.module}" if node.level else (node.module or "").split(".")[0])
    return found


def test_what_travels_imports_nothing_of_owl_but_each_other():
    files = code_files()
    own = {f".{file.stem}" for file in files}
    assert {target.split(".")[0] for target in AUTO_MAP.values()} <= {file.stem for file in files}
    for file in files:
        needed = {name for name in imports_of(file) if name.startswith((".", "owl"))}
        assert needed <= own, f"{file.name} would not find {sorted(needed - own)}"


def test_an_entry_imports_by_itself_all_that_it_needs():
    # transformers 4 copies no module that only another module imports.
    direct = {
        f".{file.stem}": {name for name in imports_of(file) if name.startswith(".")}
        for file in code_files()
    }
    for target in AUTO_MAP.values():
        entry = f".{target.split('.')[0]}"
        needed, found = set(), direct[entry]
        while found - needed:
            needed |= found
            found = set().union(*(direct[name] for name in needed))
        assert needed <= direct[entry], f"{entry} has to import {sorted(needed - direct[entry])}"


def test_an_exported_folder_works_without_owl(folder, processor, tmp_path):
    model = Owl3ForConditionalGeneration.from_pretrained(folder)
    exported, saved = tmp_path / "exported", tmp_path / "saved"
    model.save_pretrained(exported)
    processor.save_pretrained(exported)
    copy_code(exported)
    saved.mkdir()

    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(exported), str(saved)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    messages = [{"role": "user", "content": "<|image|>?"}, {"role": "assistant", "content": ""}]
    inputs = processor(messages, images=[torch.full((9, 9, 3), 99, dtype=torch.uint8)])
    assert torch.equal(torch.load(saved / "logits.pt"), model(**inputs).logits.detach())


def test_a_folder_with_code_still_loads_ours_without_being_trusted(folder, processor, tmp_path):
    from transformers import AutoModelForCausalLM, AutoProcessor

    Owl3ForConditionalGeneration.from_pretrained(folder).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    copy_code(tmp_path)
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path)) is Owl3ForConditionalGeneration
    assert type(AutoProcessor.from_pretrained(tmp_path)) is type(processor)


def test_auto_map_is_written_where_transformers_looks(folder, processor, tmp_path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    processor.save_pretrained(tmp_path)
    copied = copy_code(tmp_path)
    assert [file.name for file in copied] == [file.name for file in code_files()]
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == AUTO_MAP
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    assert settings["auto_map"] == {"AutoProcessor": AUTO_MAP["AutoProcessor"]}


def test_a_folder_without_a_config_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        copy_code(tmp_path)
