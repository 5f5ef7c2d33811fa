# SPDX-License-Identifier: Apache-2.0
"""Real processes over gloo: the same start gives the same losses in every layout."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from owl.checkpoint.folder import checkpoint_path
from owl.checkpoint.load import load_tensors
from owl.config.run import (
    CheckpointConfig,
    DeviceKind,
    OptimConfig,
    ParallelConfig,
    Precision,
    Recompute,
    StageConfig,
    Trainable,
)
from owl.families.owl3.config import FusionKind
from owl.mcore.launch import run_in_processes
from owl.mcore.process_groups import process_groups
from owl.train.run import train
from tests.tiny_run import losses, tiny_model, tiny_run, training_state

# Plain AdamW in float64: what differs between layouts is the order of sums, nothing else.
EXACT = {
    "precision": Precision.fp64,
    # Megatron measures the norm to clip by in float32, so clipping is off.
    "optim": OptimConfig(
        learning_rate=1e-3, warmup_fraction=0.0, distributed=False, clip_grad_norm=0.0
    ),
}


def layout(**degrees) -> ParallelConfig:
    return ParallelConfig(device=DeviceKind.cpu, timeout_minutes=1, **degrees)


@pytest.fixture(scope="module", params=[FusionKind.token_gate, FusionKind.joint_softmax], ids=str)
def straight(request, tmp_path_factory):
    """A run of one process: its configuration and losses, and the checkpoint after two steps."""
    folder = tmp_path_factory.mktemp(str(request.param))
    run = tiny_run(folder, model=tiny_model(request.param), **EXACT)
    train(run)
    return run, losses(Path(run.output)), checkpoint_path(Path(run.output), 2)


def run_from(run, start: Path, name: str, processes: int, **changes) -> list[float]:
    """Train on from the weights of a checkpoint, as a run of its own."""
    output = str(Path(run.output).with_name(name))
    keep = CheckpointConfig(start_from=str(start), every_steps=100)
    run_in_processes(train, processes, replace(run, output=output, checkpoint=keep, **changes))
    return losses(Path(output))


@pytest.mark.parametrize(
    ("processes", "degrees"),
    [(2, {"tensor": 2}), (2, {"pipeline": 2}), (2, {})],
    ids=["tensor 2", "pipeline 2", "data 2"],
)
def test_losses_are_those_of_one_process(straight, processes, degrees):
    run, _, start = straight
    expected = run_from(run, start, "expected", 1)

    actual = run_from(run, start, f"layout{degrees}", processes, parallel=layout(**degrees))

    assert len(set(expected)) == len(expected), "the losses do not move: nothing is compared"
    assert actual == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("recompute", [Recompute.selective, Recompute.full], ids=str)
def test_recompute_changes_no_bit(straight, recompute):
    run, _, start = straight

    expected = run_from(run, start, "kept", 1)
    actual = run_from(run, start, str(recompute), 1, parallel=layout(recompute=recompute))

    assert actual == expected


def test_a_checkpoint_of_one_process_goes_on_in_two(tmp_path):
    run = tiny_run(tmp_path, train_steps=4)
    train(run)
    expected = losses(Path(run.output))
    newest = checkpoint_path(Path(run.output), 4)
    newest.rename(newest.with_name("elsewhere"))

    run_in_processes(train, 2, replace(run, parallel=layout(tensor=2)))

    assert losses(Path(run.output)) == pytest.approx(expected, rel=1e-6)
    assert training_state(newest)["layout"] == {"tensor": 2, "pipeline": 1}


@pytest.mark.parametrize("precision", [Precision.bf16, Precision.fp16], ids=str)
def test_half_precision_follows_float32(tmp_path, precision):
    run = tiny_run(tmp_path)
    train(run)
    expected = losses(Path(run.output))
    start = checkpoint_path(Path(run.output), 2)

    single = run_from(run, start, "fp32", 1)
    half = run_from(run, start, str(precision), 1, precision=precision)

    assert expected != single
    assert half == pytest.approx(single, rel=2e-3)
    assert half[-1] < half[0]


def test_frozen_parts_keep_every_bit(tmp_path):
    fusion_only = Trainable(vision_tower=False, projector=True, language_model=False, fusion=True)
    run = tiny_run(tmp_path, stage=StageConfig(trainable=fusion_only, train_steps=4))
    train(run)

    with process_groups(ParallelConfig(device=DeviceKind.cpu), alone=True):
        before = load_tensors(checkpoint_path(Path(run.output), 2))
        after = load_tensors(checkpoint_path(Path(run.output), 4))

    changed = {name for name in before if not torch.equal(before[name], after[name])}
    learning = {n for n in before if "projector." in n or ".fusion." in n or "media_kv" in n}
    assert changed == learning
