# SPDX-License-Identifier: Apache-2.0
import json
import math

import pytest
import torch

from owl.config.run import ModelConfig, VisionTowerConfig
from owl.demo import pretrain
from owl.demo.pretrain import (
    LANGUAGE_SIZES,
    VISION_SIZES,
    language_loss,
    naming_loss,
    train_language_model,
    train_vision_model,
)
from owl.demo.text import save_tokenizer


def test_sizes_are_those_of_the_tiny_model():
    model = ModelConfig()
    assert LANGUAGE_SIZES["hidden_size"] == model.hidden_size
    assert LANGUAGE_SIZES["intermediate_size"] == model.ffn_hidden_size
    assert LANGUAGE_SIZES["num_hidden_layers"] == model.num_layers
    assert LANGUAGE_SIZES["num_attention_heads"] == model.num_attention_heads
    assert LANGUAGE_SIZES["num_key_value_heads"] == model.num_kv_heads
    assert LANGUAGE_SIZES["vocab_size"] == model.vocab_size
    assert LANGUAGE_SIZES["rope_theta"] == model.rope_theta
    size, patch = VISION_SIZES["image_size"], VISION_SIZES["patch_size"]
    assert VisionTowerConfig(image_size=size, patch_size=patch).patches_per_tile == 16


def test_language_loss_is_the_mean_over_weights_of_the_next_token():
    # Two classes, logits for probabilities 3/4 and 1/4; targets are tokens 1 and 2 of the row.
    logits = torch.tensor([[[math.log(3.0), 0.0]] * 3])
    tokens = torch.tensor([[1, 0, 1]])
    weights = torch.tensor([[1.0, 0.5, 1.0]])
    expected = (0.5 * math.log(4 / 3) + 1.0 * math.log(4.0)) / 1.5
    assert language_loss(logits, tokens, weights).item() == pytest.approx(expected)


def test_naming_loss_of_a_sure_and_right_classifier_is_zero():
    scores = torch.full((2, 16, 10), -50.0)
    scores[0, :, 3] = scores[1, :, 7] = 50.0
    assert naming_loss(scores, torch.tensor([3, 7])).item() == pytest.approx(0.0, abs=1e-6)
    assert naming_loss(scores, torch.tensor([4, 7])).item() > 10


@pytest.mark.parametrize("model", ["language", "vision"])
def test_a_trained_model_is_saved_as_transformers_does_and_learns(model, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "LANGUAGE_STEPS", 12)
    monkeypatch.setattr(pretrain, "VISION_STEPS", 12)
    monkeypatch.setattr(pretrain, "VISION_BATCH", 32)
    monkeypatch.setattr(pretrain, "REPORT_EVERY", 1)
    lines = []
    if model == "language":
        save_tokenizer(tmp_path / "tokenizer")
        train_language_model(tmp_path / "out", tmp_path / "tokenizer", lines.append)
    else:
        train_vision_model(tmp_path / "out", lines.append)
    losses = [float(line.rsplit(" ", 1)[1]) for line in lines]
    assert losses[-1] < losses[0]
    assert (tmp_path / "out" / "model.safetensors").is_file()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == {"language": "qwen2", "vision": "siglip_vision_model"}[model]
