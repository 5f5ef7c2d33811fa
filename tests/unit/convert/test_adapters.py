# SPDX-License-Identifier: Apache-2.0
"""Adapters leave as a folder that peft loads, come back from one, and merge into an export."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import owl.hf  # noqa: F401 (registers the models with transformers)
from owl.checkpoint.content import weight_shards
from owl.checkpoint.inference import loaded_model
from owl.checkpoint.load import load_lora_config, load_model_config, load_weights
from owl.checkpoint.save import CARRIED, write_checkpoint
from owl.checkpoint.state import TrainState
from owl.checkpoint.stream import CheckpointTensors
from owl.config.run import (
    DeviceKind,
    FamilyKind,
    LoraConfig,
    LoraTarget,
    ModelPart,
    ParallelConfig,
    Precision,
)
from owl.convert.adapters import export_adapter, pairs_of
from owl.convert.families import PUBLISHED, weight_table
from owl.convert.from_hf import import_checkpoint
from owl.convert.hf_logits import hf_logits
from owl.convert.probe import make_probe
from owl.convert.to_hf import ExportOptions, export_checkpoint
from owl.convert.verify import verify
from owl.errors import CheckpointError
from owl.mcore.adapters import add_adapters
from owl.mcore.process_groups import process_groups
from owl.mcore.provider import build_model
from owl.model.freeze import part_of
from owl.model.lora import is_adapter
from tests.published import random_weights, small_config, write_published

GOLDEN = Path(__file__).parents[2] / "golden"
CONFIG = small_config("240728")
EVERY = LoraConfig(targets=list(LoraTarget), rank=2, alpha=6.0, dropout=0.1)
QV = LoraConfig(targets=[LoraTarget.q, LoraTarget.v], rank=2, also_train=[ModelPart.projector])


def write_folder(family: str, folder: Path) -> Path:
    """The published folder that training starts from."""
    if family != "owl3":
        return shutil.copytree(GOLDEN / family, folder)
    weights = random_weights("240728", CONFIG, dtype=torch.float32)
    return write_published(folder, "240728", config=CONFIG, weights=weights)


@pytest.fixture(scope="module", params=["owl3", "owl2", "owl1"])
def hf(request, tmp_path_factory) -> Path:
    return write_folder(request.param, tmp_path_factory.mktemp("published") / request.param)


@pytest.fixture(scope="module")
def owl3(tmp_path_factory) -> Path:
    return write_folder("owl3", tmp_path_factory.mktemp("published") / "owl3")


@pytest.fixture(scope="module")
def start(hf) -> Path:
    import_checkpoint(hf, hf.with_name("start"))
    return hf.with_name("start")


@pytest.fixture(scope="module", params=[EVERY, QV], ids=["every target", "q, v and projector"])
def trained(request, start) -> Path:
    """A checkpoint of a run with adapters, as if it had been trained."""
    lora, model = request.param, load_model_config(start)
    if model.family is FamilyKind.owl1:
        lora = replace(lora, also_train=[])  # peft has no form for its projector's queries
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


def test_the_model_has_the_pairs_of_its_published_projections(trained):
    lora, model = load_lora_config(trained), load_model_config(trained)
    entries = weight_table(PUBLISHED[model.family], model).entries
    pairs = [pair for entry in entries for pair in pairs_of(entry, lora.targets)]

    wanted = dict(item for pair in pairs for item in pair.published(lora.rank).values())

    specs = CheckpointTensors(trained).specs
    assert {name: spec.shape for name, spec in specs.items() if is_adapter(name)} == wanted


def trainer_logits(checkpoint: Path) -> torch.Tensor:
    probe = make_probe(load_model_config(checkpoint), seed=5)
    with loaded_model(checkpoint, Precision.fp64, DeviceKind.cpu) as model:
        return model.logits(probe)


def their_logits(network, checkpoint: Path) -> torch.Tensor:
    """Compute the same with a transformers model."""
    return hf_logits(network, make_probe(load_model_config(checkpoint), seed=5))


def open_hf(folder: Path):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()


def close(actual, expected) -> bool:
    # transformers' LLaMA rotates in float32.
    return float((actual - expected).abs().max()) < 2e-6 * float(expected.abs().max())


def test_peft_gives_the_trainers_logits_and_without_adapter_the_starts(
    tmp_path, hf, start, trained
):
    export_adapter(trained, tmp_path / "adapter", base=hf)

    network = PeftModel.from_pretrained(open_hf(hf), tmp_path / "adapter").eval()

    expected, before = trainer_logits(trained), trainer_logits(start)
    assert (expected - before).abs().max() > 0.01 * before.abs().max()
    assert close(their_logits(network, trained), expected)
    with network.disable_adapter():
        assert close(their_logits(network, trained), before)
    assert network.peft_config["default"].base_model_name_or_path == str(hf)


def test_an_export_is_merged(tmp_path, trained):
    export_checkpoint(trained, tmp_path / "merged", ExportOptions(with_code=False))

    merged = their_logits(open_hf(tmp_path / "merged"), trained)
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
    lora, model = load_lora_config(trained), load_model_config(trained)
    entries = PUBLISHED[model.family].entries(model)
    present = {pair.target for entry in entries for pair in pairs_of(entry, lora.targets)}
    in_order = [target for target in lora.targets if target in present]
    assert load_lora_config(tmp_path / "back") == replace(lora, targets=in_order)


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


def test_what_peft_trained_is_imported(tmp_path, owl3):
    import_checkpoint(owl3, tmp_path / "plain")
    # Its q_proj and v_proj are those of the tower, too, where our target has every projection.
    network, lines = peft_adapter(tmp_path / "adapter", owl3), []

    import_checkpoint(owl3, tmp_path / "start", adapter=tmp_path / "adapter", report=lines.append)

    lora = load_lora_config(tmp_path / "start")
    assert (lora.targets, lora.rank, lora.alpha) == (["q", "v", "tower"], 2, 3.0)
    assert [line for line in lines if "are zeros, such as" in line and "k_proj" in line]
    expected = their_logits(network, tmp_path / "plain")
    # The adapter is stored in float32.
    assert (trainer_logits(tmp_path / "start") - expected).abs().max() < 1e-5
    assert (trainer_logits(tmp_path / "plain") - expected).abs().max() > 1e-3


def test_an_adapter_that_is_more_than_lora_is_refused(tmp_path, owl3):
    peft_adapter(tmp_path / "adapter", owl3, use_rslora=True)

    with pytest.raises(CheckpointError, match=r"use_rslora=True\. Merge it with peft's"):
        import_checkpoint(owl3, tmp_path / "start", adapter=tmp_path / "adapter")

    assert not (tmp_path / "start").exists()


def test_an_adapter_of_another_model_is_refused(tmp_path, hf, trained):
    export_adapter(trained, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    (tmp_path / "adapter/adapter_config.json").write_text(
        json.dumps(config | {"r": 3, "modules_to_save": None})
    )

    with pytest.raises(CheckpointError, match="does not fit the model, or not r=3"):
        import_checkpoint(hf, tmp_path / "start", adapter=tmp_path / "adapter")


def test_weights_that_peft_cannot_hold_are_refused(tmp_path, trained):
    if load_model_config(trained).family is not FamilyKind.owl1:
        pytest.skip("every weight of its projector is in a module that peft can save")
    shutil.copytree(trained, tmp_path / "copy")
    lora = load_lora_config(trained)
    settings = asdict(replace(lora, targets=["q"], also_train=["projector"]))
    (tmp_path / "copy/lora.json").write_text(json.dumps(settings))

    with pytest.raises(CheckpointError, match="which peft has no form for"):
        export_adapter(tmp_path / "copy", tmp_path / "adapter")


def test_a_run_without_adapters_has_none_to_export(tmp_path, start):
    with pytest.raises(CheckpointError, match="trained without lora="):
        export_adapter(start, tmp_path / "adapter")


def test_the_projector_is_exported_whole_where_it_was_trained(tmp_path, trained):
    export_adapter(trained, tmp_path / "adapter", dtype=torch.bfloat16)

    names = load_file(tmp_path / "adapter/adapter_model.safetensors")
    whole = {name for name in names if "lora_" not in name}
    lora = load_lora_config(trained)
    model = load_model_config(trained)
    projector = {
        f"base_model.model.{name}"
        for entry in PUBLISHED[model.family].entries(model)
        for name in entry.published
        if entry.ours.startswith("projector.")
    }
    assert whole == (projector if lora.also_train else set())
    assert {tensor.dtype for tensor in names.values()} == {torch.bfloat16}
