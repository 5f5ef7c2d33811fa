# SPDX-License-Identifier: Apache-2.0
"""The recipes of the families that splice run on their demos, stage after stage, and resume."""

import shutil
from pathlib import Path

import pytest
import torch

from owl.checkpoint.folder import newest_checkpoint
from owl.checkpoint.load import load_tensors
from owl.config.load import compose
from owl.config.run import DeviceKind, FamilyKind, ParallelConfig, RunConfig
from owl.demo import prepare, pretrain, shards
from owl.demo.checkpoints import different_tensors
from owl.demo.samples import Kind
from owl.demo.shards import StageData
from owl.mcore.process_groups import process_groups
from owl.train.run import train
from tests.tiny_run import losses

MIXTURE = {Kind.single: 1.0, Kind.captions: 1.0}
FAMILIES = [FamilyKind.owl2, FamilyKind.owl1]


@pytest.fixture(scope="module", params=FAMILIES)
def demo(request, tmp_path_factory) -> tuple[FamilyKind, Path]:
    """A family's demo, whose models have hardly been trained."""
    family, folder = request.param, tmp_path_factory.mktemp("demo")
    makers = (
        *(prepare._make_tokenizer, prepare._make_language_model, prepare._make_vision_model),
        *(prepare._make_shards, prepare._make_start),
    )
    small = {name: StageData(samples=80, mixture=MIXTURE, in_words=name == "text")
             for name in ("stage1", "stage2", "text")}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "LANGUAGE_STEPS", 2)
        patch.setattr(pretrain, "VISION_STEPS", 2)
        patch.setattr(shards, "STAGES", small)
        for make in makers:
            make(folder, family)
    return family, folder


def run_of(demo: tuple[FamilyKind, Path], stage: str, output: Path, *more: str) -> RunConfig:
    family, folder = demo
    overrides = [
        f"+experiment={family}/{stage}",
        f"data.demo_folder={folder}",
        f"output={output}",
        *("stage.train_steps=4", "checkpoint.every_steps=2", "checkpoint.keep=0"),
        *("batch.samples_per_step=8", "pack.text_tokens=256", "parallel.device=cpu"),
        *more,
    ]
    run, problems = compose("pretrain", overrides)
    assert problems == list(run.problems()) == []
    return run


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    with process_groups(ParallelConfig(device=DeviceKind.cpu), alone=True):
        return load_tensors(checkpoint)


def test_a_familys_stages_train_what_they_say_and_resume_without_a_trace(demo, tmp_path):
    first = run_of(demo, "stage1", tmp_path / "one")
    train(first)
    start, one = tensors(demo[1] / "start"), newest_checkpoint(tmp_path / "one")
    trained = tensors(one)
    assert different_tensors(start, trained, first.stage.trainable) == []
    moved = {name for name in start if not torch.equal(start[name], trained[name])}
    assert {name.split(".")[0] for name in moved} >= {"vision_tower", "projector"}
    assert "embedding.word_embeddings.weight" not in moved

    second = run_of(demo, "stage2", tmp_path / "two", f"checkpoint.start_from={tmp_path / 'one'}")
    train(second)
    straight = losses(tmp_path / "two")
    assert len(straight) == 4

    # What a kill after step 3 leaves: the checkpoint of step 2, and metrics beyond it.
    shutil.rmtree(newest_checkpoint(tmp_path / "two"))
    assert newest_checkpoint(tmp_path / "two").name.endswith("2")
    train(second)
    assert newest_checkpoint(tmp_path / "two").name.endswith("4")
    assert losses(tmp_path / "two")[:2] == straight[:2]
    assert losses(tmp_path / "two")[-2:] == straight[-2:]
