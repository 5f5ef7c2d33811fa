# SPDX-License-Identifier: Apache-2.0
"""An Owl3 with a visual abstractor trains, saves and reloads, alone and over a tensor group."""

from dataclasses import replace
from pathlib import Path

import pytest

from owl.checkpoint.folder import checkpoint_path
from owl.checkpoint.load import load_model_config
from owl.config.run import (
    AbstractorConfig,
    AttentionKind,
    CheckpointConfig,
    DeviceKind,
    OptimConfig,
    ParallelConfig,
    Precision,
    ProjectorKind,
)
from owl.families.owl3.config import FusionKind
from owl.mcore.launch import run_in_processes
from owl.train.run import train
from tests.tiny_run import losses, tiny_model, tiny_run

MODEL = tiny_model(
    FusionKind.joint_softmax,
    projector=ProjectorKind.abstractor,
    abstractor=AbstractorConfig(
        num_queries=3, num_layers=2, num_attention_heads=2, ffn_hidden_size=20
    ),
    attention=AttentionKind.lse_merge,
)


# Attention weights of the abstractor are dropped; its random start is large enough to show it.
DROPS = replace(MODEL, abstractor=replace(MODEL.abstractor, attention_dropout=0.3), init_std=0.2)


def test_an_abstractor_trains_alike_alone_and_over_a_tensor_group(tmp_path):
    # As in test_layouts.py: float64, and no clipping, whose norm Megatron measures in float32.
    optim = OptimConfig(
        learning_rate=1e-3, warmup_fraction=0.0, distributed=False, clip_grad_norm=0.0
    )
    run = tiny_run(tmp_path, train_steps=2, model=DROPS, precision=Precision.fp64, optim=optim)
    train(run)
    straight = losses(Path(run.output))
    start = checkpoint_path(Path(run.output), 2)

    resumed = replace(
        run,
        output=str(tmp_path / "tensor2"),
        checkpoint=CheckpointConfig(start_from=str(start), every_steps=100),
        parallel=ParallelConfig(device=DeviceKind.cpu, timeout_minutes=1, tensor=2, sequence=True),
    )
    run_in_processes(train, 2, resumed)
    expected = replace(resumed, output=str(tmp_path / "one"), parallel=run.parallel)
    train(expected)

    assert straight[-1] < straight[0]
    assert load_model_config(start) == DROPS
    assert losses(Path(resumed.output)) == pytest.approx(losses(Path(expected.output)), rel=1e-11)


def test_resumed_ranks_drop_what_the_uninterrupted_ones_drop(tmp_path):
    run = tiny_run(tmp_path, model=DROPS)
    run_in_processes(train, 2, run)
    expected = losses(Path(run.output))
    newest = checkpoint_path(Path(run.output), 4)
    newest.rename(newest.with_name("elsewhere"))

    run_in_processes(train, 2, run)
    kept = replace(DROPS, abstractor=MODEL.abstractor)
    without = replace(run, output=str(tmp_path / "without"), model=kept)
    train(without)

    assert losses(Path(run.output)) == expected
    assert losses(Path(without.output)) != pytest.approx(expected, rel=1e-6)
