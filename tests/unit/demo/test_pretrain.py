# SPDX-License-Identifier: Apache-2.0
import json
import math

import pytest
import torch

from owl.config.run import FamilyKind
from owl.demo import pretrain
from owl.demo.digits import IMAGE_SIZE
from owl.demo.families import DEMOS, tiny_model
from owl.demo.pretrain import (
    language_loss,
    naming_loss,
    train_language_model,
    train_vision_model,
)
from owl.demo.text import save_tokenizer


@pytest.mark.parametrize("family", FamilyKind)
def test_the_tower_gives_as_many_features_as_the_trainers(family):
    model = tiny_model(family)
    tower = DEMOS[family].vision_model(model)
    features = DEMOS[family].features(tower, torch.zeros(2, IMAGE_SIZE, IMAGE_SIZE))
    sizes = model.vision_tower
    assert features.shape == (2, sizes.features_per_tile, sizes.hidden_size)


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


SAVED_AS = {
    FamilyKind.owl3: ("qwen2", "siglip_vision_model"),
    FamilyKind.owl2: ("llama", "clip_vision_model"),
    FamilyKind.owl1: ("llama", "clip_vision_model"),
}


@pytest.mark.parametrize("family", FamilyKind)
@pytest.mark.parametrize("model", ["language", "vision"])
def test_a_trained_model_is_saved_as_transformers_does_and_learns(
    family, model, tmp_path, monkeypatch
):
    monkeypatch.setattr(pretrain, "LANGUAGE_STEPS", 12)
    monkeypatch.setattr(pretrain, "VISION_STEPS", 40)
    monkeypatch.setattr(pretrain, "VISION_BATCH", 32)
    monkeypatch.setattr(pretrain, "REPORT_EVERY", 1)
    lines = []
    if model == "language":
        save_tokenizer(tmp_path / "tokenizer", family)
        train_language_model(tmp_path / "out", tmp_path / "tokenizer", lines.append, family=family)
    else:
        train_vision_model(tmp_path / "out", lines.append, family=family)
    losses = [float(line.rsplit(" ", 1)[1]) for line in lines]
    assert losses[-1] < losses[0]
    assert (tmp_path / "out" / "model.safetensors").is_file()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == SAVED_AS[family][model == "vision"]
