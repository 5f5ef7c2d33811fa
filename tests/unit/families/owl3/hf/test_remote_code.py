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

from owl.hf import AUTO_CLASSES, Owl3ForConditionalGeneration
from owl.hf.remote_code import code_files, copy_code

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

CLIENTS = """
import sys
import numpy as np
import torch
import transformers
from PIL import Image
sys.modules["owl"] = None
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, pipeline
folder, video = sys.argv[1], [[Image.new("RGB", (20, 10), (60 * i, 9, 9)) for i in range(3)]]
def ask(mark):
    user = {"role": "user", "content": f"{mark}Describe this."}
    return [user, {"role": "assistant", "content": ""}]
# VLMEvalKit and the model cards
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
for auto, options in ((AutoModel, {"attn_implementation": "sdpa"}), (AutoModelForCausalLM, {})):
    model = auto.from_pretrained(folder, dtype=torch.half, trust_remote_code=True, **options).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)  # asks nothing
    processor = model.init_processor(tokenizer)
    for mark, media in (("<|image|>", {"images": video[0][:1], "videos": None}),
                        ("<|video|>", {"images": None, "videos": video}),
                        ("", {"images": None, "videos": None})):
        inputs = processor(ask(mark), **media)
        inputs.to("cpu")
        inputs.update({"tokenizer": tokenizer, "max_new_tokens": 4, "decode_text": True})
        answers = {model.generate(**inputs)[0] for _ in range(2)}
        assert len(answers) == 1 and isinstance(answers.pop(), str)
# transformers' pipeline
content = [{"type": "image", "image": video[0][0]}, {"type": "text", "text": "Which?"}]
talk = pipeline("image-text-to-text", model=folder, trust_remote_code=True)
answer = talk(text=[{"role": "user", "content": content}], max_new_tokens=3)
assert answer[0]["generated_text"][-1]["role"] == "assistant", answer
if hasattr(transformers, "AutoModelForVision2Seq"):
    transformers.AutoModelForVision2Seq.from_pretrained(folder, trust_remote_code=True)
"""

AUTO_MAP = {
    "AutoConfig": "configuration_owl3.Owl3Config",
    "AutoModel": "modeling_owl3.Owl3ForConditionalGeneration",
    "AutoModelForCausalLM": "modeling_owl3.Owl3ForConditionalGeneration",
    "AutoModelForImageTextToText": "modeling_owl3.Owl3ForConditionalGeneration",
    "AutoModelForVision2Seq": "modeling_owl3.Owl3ForConditionalGeneration",
    "AutoProcessor": "processing_owl3.Owl3Processor",
}
THIRD_PARTY = {"huggingface_hub", "numpy", "PIL", "safetensors", "tokenizers", "torch"}
THIRD_PARTY |= {"transformers", "av"}


@pytest.fixture
def exported(folder, processor, tmp_path) -> Path:
    """A folder with weights, tokenizer and the code."""
    target = tmp_path / "exported"
    Owl3ForConditionalGeneration.from_pretrained(folder).save_pretrained(target)
    processor.save_pretrained(target)
    copy_code(target)
    return target


def imports_of(file: Path) -> set[str]:
    """Name the modules that a module of an exported folder imports, `.x` for its neighbours."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add(f".{node.module}" if node.level else (node.module or "").split(".")[0])
    return found


def test_the_code_imports_only_itself_and_known_packages(exported):
    own = {f".{file.stem}" for file in exported.glob("*.py")}
    assert {f".{target.split('.')[0]}" for target in AUTO_MAP.values()} <= own
    allowed = own | THIRD_PARTY | sys.stdlib_module_names
    for file in exported.glob("*.py"):
        needed = imports_of(file)
        assert needed <= allowed, f"{file.name} would not find {sorted(needed - allowed)}"


def test_the_code_is_portable_and_its_names_are_unique():
    families = {cls.__module__ for classes in AUTO_CLASSES.values() for cls in classes.values()}
    files = code_files(families)
    assert len({file.name for file in files}) == len(files)
    for file in files:
        assert "owl" in file.stem.split("_")[-1], f"{file} is not named like a portable module"


def test_an_entry_imports_by_itself_all_that_it_needs(exported):
    # transformers 4 copies no module that only another module imports.
    direct = {
        f".{file.stem}": {name for name in imports_of(file) if name.startswith(".")}
        for file in exported.glob("*.py")
    }
    for target in AUTO_MAP.values():
        entry = f".{target.split('.')[0]}"
        needed, found = set(), direct[entry]
        while found - needed:
            needed |= found
            found = set().union(*(direct[name] for name in needed))
        assert needed <= direct[entry], f"{entry} has to import {sorted(needed - direct[entry])}"


def test_an_exported_folder_works_without_owl(folder, processor, exported, tmp_path):
    model = Owl3ForConditionalGeneration.from_pretrained(folder)
    saved = tmp_path / "saved"
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


def test_clients_call_an_exported_folder_without_owl(exported, tmp_path):
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", CLIENTS, str(exported)],
        cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "custom code" not in done.stdout


def test_a_folder_with_code_loads_the_installed_classes_without_being_trusted(exported, processor):
    from transformers import AutoModelForCausalLM, AutoProcessor

    assert type(AutoModelForCausalLM.from_pretrained(exported)) is Owl3ForConditionalGeneration
    assert type(AutoProcessor.from_pretrained(exported)) is type(processor)


def test_auto_map_is_written_where_transformers_looks(folder, processor, tmp_path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    processor.save_pretrained(tmp_path)
    copied = copy_code(tmp_path)
    entries = (f"owl.families.owl3.hf.{target.split('.')[0]}" for target in AUTO_MAP.values())
    assert [file.name for file in copied] == [file.name for file in code_files(entries)]
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == AUTO_MAP
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    assert settings["auto_map"] == {"AutoProcessor": AUTO_MAP["AutoProcessor"]}


def test_a_folder_without_a_config_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        copy_code(tmp_path)


def test_a_folder_of_another_model_is_an_error(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(ValueError, match="model_type='qwen2' must be one of mplugowl3"):
        copy_code(tmp_path)
