# SPDX-License-Identifier: Apache-2.0
"""A demo checkpoint, exported: owl.hf gives the trainer's results, and an error is noticed."""

from pathlib import Path

import pytest
import torch

from owl.checkpoint.inference import loaded_model
from owl.config.run import DeviceKind
from owl.convert.from_hf import import_checkpoint
from owl.convert.to_hf import ExportOptions, export_checkpoint
from owl.demo.digits import IMAGE_SIZE
from owl.demo.evaluate import answerer_of, held_out_questions
from owl.demo.exported import Exported, answerer_of_exported, logit_differences
from owl.demo.text import VOCABULARY, save_tokenizer
from tests.published import random_weights, small_config, write_published


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path, Path]:
    """A checkpoint of random weights, its export, and the tokenizer."""
    path = tmp_path_factory.mktemp("demo")
    config = small_config("240728")
    vision = config["vision_config"] | {"image_size": IMAGE_SIZE}
    config |= {"vocab_size": len(VOCABULARY), "vision_config": vision}
    weights = random_weights("240728", config, dtype=torch.float32)
    hf = write_published(path / "hf", "240728", config=config, weights=weights)
    import_checkpoint(hf, path / "checkpoint")
    save_tokenizer(path / "tokenizer")
    options = ExportOptions(base=path / "tokenizer")
    export_checkpoint(path / "checkpoint", path / "exported", options)
    return path / "checkpoint", path / "exported", path / "tokenizer"


@pytest.fixture(scope="module")
def samples():
    _, samples = held_out_questions()
    return samples[::100]  # of every kind


def test_the_exported_folder_gives_the_trainers_logits_and_answers(folders, samples):
    checkpoint, folder, tokenizer = folders
    exported = Exported.load(folder)
    with loaded_model(checkpoint, device=DeviceKind.cpu) as trained:
        differences = logit_differences(trained, exported, samples, tokenizer)
        answers = answerer_of(trained, tokenizer)(samples)

    assert set(differences) == {"packed", "single"}
    assert max(differences.values()) <= 1e-5
    assert answerer_of_exported(exported)(samples) == answers
    assert any(answers)


def test_a_weight_that_is_slightly_off_is_seen(folders, samples):
    checkpoint, folder, tokenizer = folders
    exported = Exported.load(folder)
    with torch.no_grad():
        exported.network.vision2text_model.weight[0] += 0.01
    with loaded_model(checkpoint, device=DeviceKind.cpu) as trained:
        differences = logit_differences(trained, exported, samples[:2], tokenizer)
    assert min(differences.values()) > 1e-4
