# SPDX-License-Identifier: Apache-2.0
"""Adapters leave as a folder that peft loads, come back from one, and merge into an export."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file

from owl.checkpoint.content import weight_shards
from owl.checkpoint.inference import loaded_model
from owl.checkpoint.load import load_lora_config, load_model_config, load_weights
from owl.checkpoint.save import CARRIED, write_checkpoint
from owl.checkpoint.state import TrainState
from owl.checkpoint.stream import CheckpointTensors
from owl.config.run import DeviceKind, LoraConfig, LoraTarget, ModelPart, ParallelConfig, Precision
from owl.convert.adapters import export_adapter
from owl.convert.from_hf import import_checkpoint
from owl.convert.probe import make_probe
from owl.convert.to_hf import ExportOptions, export_checkpoint
from owl.convert.verify import verify
from owl.errors import CheckpointError
from owl.families.owl3.hf.modeling_owl3 import Owl3ForConditionalGeneration
from owl.mcore.adapters import add_adapters
from owl.mcore.process_groups import process_groups
from owl.mcore.provider import build_model
from owl.model.freeze import part_of
from owl.model.lora import is_adapter
from tests.published import random_weights, small_config, write_published

CONFIG = small_config("240728")
EVERY = LoraConfig(targets=list(LoraTarget), rank=2, alpha=6.0, dropout=0.1)
QV = LoraConfig(targets=[LoraTarget.q, LoraTarget.v], rank=2, also_train=[ModelPart.projector])


@pytest.fixture(scope="module")
def hf(tmp_path_factory) -> Path:
    """The published folder that training starts from."""
    folder = tmp_path_factory.mktemp("published") / "owl"
    weights = random_weights("240728", CONFIG, dtype=torch.float32)
    return write_published(folder, "240728", config=CONFIG, weights=weights)


@pytest.fixture(scope="module")
def start(hf) -> Path:
    import_checkpoint(hf, hf.with_name("start"))
    return hf.with_name("start")


@pytest.fixture(scope="module", params=[EVERY, QV], ids=["every target", "q, v and projector"])
def trained(request, start) -> Path:
    """A checkpoint of a run with adapters, as if it had been trained."""
    lora, model = request.param, load_model_config(start)
    output = start.with_name(f"trained{len(lora.targets)}")
    parallel = ParallelConfig(device=DeviceKind.cpu)
    with process_groups(parallel, alone=True) as groups:
        chunks = build_model(model, parallel, Precision.fp32, groups)
        load_weights(start, chunks, model, groups)
        add_adapters(chunks, lora, seed=1)
        torch.manual_seed(2)
        for name, parameter in chunks[0].named_parameters():
            if is_adapter(name) or part_of(name) in lora.also_train:
                parameter.data += 0.1 * torch.randn_like(parameter)
        content = weight_shards(chunks, groups)
        write_checkpoint(
            output, content, model, TrainState(), groups, carried=start / CARRIED, lora=lora
        )
    return output


def trainer_logits(checkpoint: Path) -> torch.Tensor:
    probe = make_probe(load_model_config(checkpoint), seed=5)
    with loaded_model(checkpoint, Precision.fp64, DeviceKind.cpu) as model:
        return model.logits(probe)


def hf_logits(network, checkpoint: Path) -> torch.Tensor:
    """Compute the same with a transformers model, sample by sample."""
    batch = make_probe(load_model_config(checkpoint), seed=5)
    found, first = [], 0
    for tokens, offsets in zip(batch.tokens.split(batch.seqlens), batch.media_offset, strict=True):
        tiles = batch.pixel_values[first : first + len(offsets)]
        first += len(offsets)
        media = {"pixel_values": tiles, "media_offset": [offsets]} if offsets else {}
        with torch.no_grad():
            found.append(network(input_ids=tokens[None], use_cache=False, **media).logits[0])
    return torch.cat(found)


def open_hf(folder: Path):
    return Owl3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float64).eval()


def close(actual, expected) -> bool:
    return float((actual - expected).abs().max()) < 1e-9 * float(expected.abs().max())


def test_peft_gives_the_trainers_logits_and_without_adapter_the_starts(
    tmp_path, hf, start, trained
):
    export_adapter(trained, tmp_path / "adapter", base=hf)

    network = PeftModel.from_pretrained(open_hf(hf), tmp_path / "adapter").eval()

    expected, before = trainer_logits(trained), trainer_logits(start)
    assert (expected - before).abs().max() > 0.01 * before.abs().max()
    assert close(hf_logits(network, trained), expected)
    with network.disable_adapter():
        assert close(hf_logits(network, trained), before)
    assert network.peft_config["default"].base_model_name_or_path == str(hf)


def test_an_export_is_merged(tmp_path, trained):
    export_checkpoint(trained, tmp_path / "merged", ExportOptions(with_code=False))

    merged = hf_logits(open_hf(tmp_path / "merged"), trained)
    # Rounded to float32 once: the trainer merges in float64 here.
    assert (merged - trainer_logits(trained)).abs().max() < 1e-5
    report = verify(tmp_path / "merged", trained)
    assert report.is_equal, report


def test_an_adapter_comes_back_to_the_same_bytes(tmp_path, hf, trained):
    if load_lora_config(trained).also_train:
        pytest.skip("modules_to_save are not read")
    export_adapter(trained, tmp_path / "adapter")

    import_checkpoint(hf, tmp_path / "back", adapter=tmp_path / "adapter")

    ours, back = CheckpointTensors(trained), CheckpointTensors(tmp_path / "back")
    assert back.specs == ours.specs
    assert all(torch.equal(back.read(name), ours.read(name)) for name in ours.specs)
    assert load_lora_config(tmp_path / "back") == load_lora_config(trained)


def peft_adapter(folder: Path, hf: Path, **settings):
    """An adapter that peft made, away from its start."""
    config = PeftConfig(r=2, lora_alpha=3, target_modules=["q_proj", "v_proj"], **settings)
    network = get_peft_model(open_hf(hf), config).eval()
    torch.manual_seed(4)
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.1)
    network.save_pretrained(folder)
    return network


def test_what_peft_trained_is_imported(tmp_path, hf, start):
    # Its q_proj and v_proj are those of the tower, too, where our target has every projection.
    network, lines = peft_adapter(tmp_path / "adapter", hf), []

    import_checkpoint(hf, tmp_path / "start", adapter=tmp_path / "adapter", report=lines.append)

    lora = load_lora_config(tmp_path / "start")
    assert (lora.targets, lora.rank, lora.alpha) == (["q", "v", "tower"], 2, 3.0)
    assert [line for line in lines if "are zeros, such as" in line and "k_proj" in line]
    expected = hf_logits(network, start)
    # The adapter is stored in float32.
    assert (trainer_logits(tmp_path / "start") - expected).abs().max() < 1e-5
    assert (trainer_logits(start) - expected).abs().max() > 1e-3


def test_an_adapter_that_is_more_than_lora_is_refused(tmp_path, hf):
    peft_adapter(tmp_path / "adapter", hf, use_rslora=True)

    with pytest.raises(CheckpointError, match=r"use_rslora=True\. Merge it with peft's"):
        import_checkpoint(hf, tmp_path / "start", adapter=tmp_path / "adapter")

    assert not (tmp_path / "start").exists()


def test_an_adapter_of_another_model_is_refused(tmp_path, hf, trained):
    export_adapter(trained, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    (tmp_path / "adapter/adapter_config.json").write_text(
        json.dumps(config | {"r": 3, "modules_to_save": None})
    )

    with pytest.raises(CheckpointError, match="does not fit the model, or not r=3"):
        import_checkpoint(hf, tmp_path / "start", adapter=tmp_path / "adapter")


def test_a_run_without_adapters_has_none_to_export(tmp_path, start):
    with pytest.raises(CheckpointError, match="trained without lora="):
        export_adapter(start, tmp_path / "adapter")


def test_the_projector_is_exported_whole_where_it_was_trained(tmp_path, trained):
    export_adapter(trained, tmp_path / "adapter", dtype=torch.bfloat16)

    names = load_file(tmp_path / "adapter/adapter_model.safetensors")
    whole = {name for name in names if "lora_" not in name}
    lora = load_lora_config(trained)
    projector = {f"base_model.model.vision2text_model.{kind}" for kind in ("weight", "bias")}
    assert whole == (projector if lora.also_train else set())
    assert {tensor.dtype for tensor in names.values()} == {torch.bfloat16}
