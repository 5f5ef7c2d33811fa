# SPDX-License-Identifier: Apache-2.0
"""Stage 1 over pipeline stages that have nothing to train, saved in one layout, resumed in another.

Only the projector and what the hyper layers add learn. With hyper layers 0 and 1, the later stages
hold no trainable parameter and no optimizer state. Each micro-batch is one sample, every third of
them without a picture.
"""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from owl.checkpoint.folder import checkpoint_path
from owl.config.run import (
    BatchConfig,
    DeviceKind,
    OptimConfig,
    PackConfig,
    ParallelConfig,
    Precision,
    StageConfig,
    Trainable,
)
from owl.data.open_run import open_loader
from owl.families.owl3.config import HyperAttentionConfig
from owl.mcore.launch import run_in_processes
from owl.train.run import train
from tests.tiny_run import losses, tiny_model, tiny_run, training_state

STEPS, PACKS = 4, 8
FUSION_ONLY = Trainable(vision_tower=False, projector=True, language_model=False, fusion=True)
LAYOUTS = {
    "pipeline 4": {"pipeline": 4},
    "pipeline 2 tensor 2": {"pipeline": 2, "tensor": 2, "sequence": True},
    "pipeline 2 data 2": {"pipeline": 2},
    "data 4": {"overlap_grad_reduce": True, "overlap_param_gather": True},
}


def stage1_run(folder: Path, *, tied: bool):
    """Four layers; float64 and no clipping, so that layouts differ by the order of sums only."""
    hyper = HyperAttentionConfig(layer_indices=[0, 1])
    return tiny_run(
        folder,
        model=tiny_model(hyper_attention=hyper, tie_word_embeddings=tied),
        pack=PackConfig(enabled=False, text_tokens=256, tiles=8, window=16),
        batch=BatchConfig(global_batch_size=PACKS),
        stage=StageConfig(name="stage1", trainable=FUSION_ONLY, train_steps=STEPS),
        precision=Precision.fp64,
        optim=OptimConfig(
            learning_rate=1e-2, warmup_fraction=0.0, clip_grad_norm=0.0, distributed=True
        ),
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process without interruption, by whether embeddings are tied: its run and its losses."""
    runs = {}
    for tied in (False, True):
        run = stage1_run(tmp_path_factory.mktemp("alone"), tied=tied)
        train(run)
        runs[tied] = run, losses(Path(run.output))
    return runs


def parallel(name: str) -> ParallelConfig:
    return ParallelConfig(device=DeviceKind.cpu, timeout_minutes=1, **LAYOUTS[name])


def test_text_only_micro_batches_are_in_every_step(alone):
    run, _ = alone[False]

    for step in islice(open_loader(run).steps(PACKS), STEPS):
        assert {len(batch.pixel_values) > 0 for batch in step.microbatches} == {True, False}


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("first", "second", "tied"),
    [
        ("pipeline 4", "pipeline 2 tensor 2", False),
        ("pipeline 2 tensor 2", "data 4", True),
        pytest.param("data 4", "pipeline 4", True, marks=pytest.mark.slow),
        pytest.param("pipeline 2 data 2", "pipeline 4", False, marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_in_another_layout_with_the_same_losses(alone, tmp_path, first, second, tied):
    run, expected = alone[tied]
    run = replace(run, output=str(tmp_path / "run"))

    run_in_processes(train, 4, replace(run, parallel=parallel(first)))
    output = Path(run.output)
    straight = losses(output)
    newest = checkpoint_path(output, STEPS)
    newest.rename(newest.with_name("elsewhere"))
    run_in_processes(train, 4, replace(run, parallel=parallel(second)))

    assert len(set(expected)) == STEPS, "the losses do not move: nothing is compared"
    assert straight == pytest.approx(expected, rel=1e-10)
    assert losses(output) == pytest.approx(expected, rel=1e-10)
    degrees = LAYOUTS[second]
    assert training_state(newest)["layout"] == {
        "tensor": degrees.get("tensor", 1),
        "pipeline": degrees.get("pipeline", 1),
    }
