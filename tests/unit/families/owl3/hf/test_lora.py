# SPDX-License-Identifier: Apache-2.0
"""PEFT's adapters learn, are saved alone, and are imported for training once merged."""

import pytest
import torch

from owl.checkpoint.stream import CheckpointTensors
from owl.convert.from_hf import import_checkpoint
from owl.families.owl3.published import entries
from tests.unit.families.owl3.hf.conftest import build
from tests.unit.families.owl3.hf.test_generation_owl3 import batch, write

peft = pytest.importorskip("peft")

# As docs/inference.md names them.
NAMES = ["q_proj", "k_proj", "v_proj", "v_kv_proj", "o_proj", "mlp.gate_proj", "up_proj"]
LORA = {"task_type": "CAUSAL_LM", "exclude_modules": "vision_model.*"}


def adapted(fusion: str):
    lora = peft.LoraConfig(r=4, target_modules=[*NAMES, "down_proj"], **LORA)
    return peft.get_peft_model(build(fusion).double(), lora)


def learn(model) -> list[float]:
    inputs = batch("right")
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=1e-2)
    losses = []
    for _ in range(4):
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("fusion", ["token_gate", "static_gate", "joint_softmax"])
def test_adapters_learn_save_and_merge(tmp_path, fusion):
    model = adapted(fusion)
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert all("lora_" in name and "vision_model" not in name for name in learning)
    assert sum("v_kv_proj" in name for name in learning) == 2 * 2  # A and B of two hyper layers

    losses = learn(model)
    assert losses[3] < losses[0] - 0.1
    start = build(fusion).double().state_dict()
    frozen = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): weight
        for name, weight in model.named_parameters()
        if name not in learning
    }
    assert all(torch.equal(weight, start[name]) for name, weight in frozen.items())

    model.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(build(fusion).double(), tmp_path / "adapter").eval()
    with torch.no_grad():
        expected = model.eval()(**batch()).logits
        assert torch.equal(again(**batch()).logits, expected)
        assert torch.equal(write(again, batch()), write(model, batch()))
        merged = again.merge_and_unload()
        torch.testing.assert_close(merged(**batch()).logits, expected, rtol=0, atol=1e-9)


def test_a_merged_model_is_imported_for_training(tmp_path):
    model = adapted("joint_softmax")
    learn(model)
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")

    config = import_checkpoint(tmp_path / "merged", tmp_path / "start")

    published = merged.state_dict()
    weights = CheckpointTensors(tmp_path / "start")
    for entry in entries(config):
        expected = entry.to_ours(tuple(published[name] for name in entry.published))
        assert torch.equal(weights.read(entry.ours), expected), entry.ours
