# SPDX-License-Identifier: Apache-2.0
"""The published layouts of mPLUG-Owl2 and mPLUG-Owl, in and out: every tensor's name and bytes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import owl.hf  # noqa: F401 - registers the families
from owl.checkpoint.inference import loaded_model
from owl.convert.from_hf import import_checkpoint
from owl.convert.to_hf import ExportOptions, export_checkpoint
from owl.convert.verify import verify
from owl.data.collate import collate
from owl.data.samples import EncodedSample
from tests.llama_tokenizer import write_llama_tokenizer
from tests.published import assert_same_bytes, read_weights
from tests.unit.convert.spliced_folders import published_config, random_tensors, write_folder

FAMILIES = ("owl1", "owl2")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
@pytest.mark.parametrize("without", ["nothing", "pos_embed"], ids=["all", "without tables"])
def test_import_then_export_gives_the_same_bytes(tmp_path, family, suffix, without):
    config = published_config(family)
    tensors = random_tensors(family, config, without=without)
    hf = write_folder(tmp_path / "hf", config, tensors, suffix=suffix)

    import_checkpoint(hf, tmp_path / "start")
    options = ExportOptions(with_code=False, shard_bytes=100_000)
    export_checkpoint(tmp_path / "start", tmp_path / "out", options)

    assert any("inv_freq" in name for name in tensors)
    assert_same_bytes(read_weights(tmp_path / "out"), tensors)
    again = json.loads((tmp_path / "out" / "config.json").read_text())
    assert again["model_type"] == config["model_type"]
    assert again["architectures"] == config["architectures"]


@pytest.mark.parametrize("family", FAMILIES)
def test_verify_compares_the_logits_of_both_implementations(tmp_path, family):
    config = published_config(family)
    hf = write_folder(tmp_path / "hf", config, random_tensors(family, config), suffix="bin")
    import_checkpoint(hf, tmp_path / "start")

    report = verify(hf, tmp_path / "start")

    assert report.is_equal, str(report)
    assert report.largest_logit > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_trainer_and_transformers_write_the_same(tmp_path, family):
    """Greedy, after prompts with two pictures, none and one; transformers takes them as a batch."""
    config = published_config(family)
    tensors = random_tensors(family, config)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in tensors.items():  # a model that answers differently to each prompt
        if "norm" not in name and "ln_" not in name and "pos_embed" not in name:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    hf = write_folder(tmp_path / "hf", config, tensors, suffix="safetensors")
    import_checkpoint(hf, tmp_path / "start")
    prompts = [make_sample(4, (1, 10)), make_sample(6, ()), make_sample(3, (3,))]

    written: list[list[int]] = [[] for _ in prompts]
    with loaded_model(tmp_path / "start") as model:
        for _ in range(5):
            grown = [grow(sample, ids) for sample, ids in zip(prompts, written, strict=True)]
            logits = model.logits(batch := collate(grown)).cpu()
            for ids, token in zip(written, logits[batch.cu_seqlens[1:].long() - 1], strict=True):
                ids.append(int(token.argmax()))

    longest = max(len(sample.tokens) for sample in prompts)
    tokens, mask = torch.zeros(2, len(prompts), longest, dtype=torch.long)
    for index, sample in enumerate(prompts):
        start = longest - len(sample.tokens)
        tokens[index, start:], mask[index, start:] = sample.tokens, 1
    network = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32)
    theirs = network.generate(
        tokens, attention_mask=mask,
        pixel_values=torch.cat([sample.tiles for sample in prompts]),
        media_offset=[sample.media_offset for sample in prompts],
        max_new_tokens=5, eos_token_id=-1,
    )  # fmt: skip
    assert len({tuple(ids) for ids in written}) == 3
    assert theirs[:, longest:].tolist() == written


KEYS = 9
"""Vectors of a picture in the folders above."""


def make_sample(length: int, pictures: tuple[int, ...]) -> EncodedSample:
    """Draw a prompt with pictures before some of its tokens."""
    generator = torch.Generator().manual_seed(length)
    ids, offsets = [], []
    for index in range(length + len(pictures) * KEYS):
        if index in pictures:
            offsets.append(len(ids))
            ids += [0] * KEYS
        elif len(ids) < length + len(pictures) * KEYS:
            ids.append(int(torch.randint(3, 200, (), generator=generator)))
    shape = (len(offsets), 3, 28, 28)
    return EncodedSample(
        key="k", source="test", tokens=torch.tensor(ids), loss_weights=torch.zeros(len(ids)),
        positions=torch.arange(len(ids)), media_offset=offsets,
        tiles=torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
    )  # fmt: skip


def grow(sample: EncodedSample, ids: list[int]) -> EncodedSample:
    tokens = torch.cat([sample.tokens, torch.tensor(ids, dtype=torch.long)])
    return replace(
        sample, tokens=tokens, loss_weights=torch.zeros(len(tokens)),
        positions=torch.arange(len(tokens)),
    )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_constants_that_nobody_imported_are_not_made_up(tmp_path, family):
    config = published_config(family)
    tensors = random_tensors(family, config, without="inv_freq")
    tensors = {name: each for name, each in tensors.items() if "pos_embed" not in name}
    hf = write_folder(tmp_path / "hf", config, tensors, suffix="safetensors")
    import_checkpoint(hf, tmp_path / "start")

    export_checkpoint(tmp_path / "start", tmp_path / "out", ExportOptions(with_code=False))

    assert set(read_weights(tmp_path / "out")) == set(tensors)


STRANGER = """
import sys
sys.modules["owl"] = None  # importing it now fails, installed or not
import torch
from transformers import AutoModelForCausalLM, AutoProcessor, AutoTokenizer
folder = sys.argv[1]
AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).float().eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
picture = torch.full((9, 5, 3), 99, dtype=torch.uint8)
content = [{"type": "image", "image": picture}, {"type": "text", "text": "Hm?"}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True,
    return_dict=True, return_tensors="pt",
)
tokens = model.generate(**inputs, max_new_tokens=2, min_new_tokens=2)
print(tokens.shape[1] - inputs["input_ids"].shape[1], processor.fit)
"""


@pytest.mark.parametrize(("family", "fit"), [("owl1", "stretch"), ("owl2", "pad")])
def test_the_default_export_works_for_a_stranger(tmp_path, family, fit):
    config = published_config(family)
    sizes = config["text_config"] if family == "owl1" else config
    sizes["vocab_size"] = 354
    hf = write_folder(tmp_path / "hf", config, random_tensors(family, config), suffix="bin")
    import_checkpoint(hf, tmp_path / "start")
    base = write_llama_tokenizer(tmp_path / "base")

    export_checkpoint(tmp_path / "start", tmp_path / "out", ExportOptions(base=base))

    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(tmp_path / "out")],
        cwd=tmp_path,
        env=os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""},
        capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", fit]
    ids = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert ids == {"bos_token_id": 1, "eos_token_id": 2}


MEASURE = """
import sys
from pathlib import Path
from owl.convert.from_hf import import_checkpoint
import owl.convert.check, owl.checkpoint.stream
from benchmarks.convert import memory
Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
before = memory("VmRSS")
import_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]))
print(memory("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures with Linux' /proc")
def test_an_import_of_bin_files_holds_no_more_than_one(tmp_path):
    """Four files of 63 MB and a smaller one."""
    config = published_config("owl2")
    config |= {"hidden_size": 1024, "intermediate_size": 8192, "vocab_size": 1000}
    hf = write_folder(tmp_path / "hf", config, random_tensors("owl2", config), suffix="bin")
    sizes = [file.stat().st_size for file in hf.glob("*.bin")]

    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(hf), str(tmp_path / "start")],
        check=True, stdout=subprocess.PIPE, text=True, timeout=300,
    )  # fmt: skip

    assert len(sizes) == 5
    assert int(done.stdout.split()[-1]) < 1.3 * max(sizes) < sum(sizes) / 3
    assert torch.load(next(hf.glob("*-0.bin")), weights_only=True)  # the folder is unharmed
