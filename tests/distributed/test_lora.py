# SPDX-License-Identifier: Apache-2.0
"""Whole runs with adapters: in other layouts, resumed, and started from other runs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from owl.checkpoint.folder import checkpoint_path
from owl.checkpoint.inference import loaded_model
from owl.checkpoint.load import load_lora_config, load_tensors
from owl.config.run import (
    CheckpointConfig,
    DeviceKind,
    LoraConfig,
    LoraTarget,
    OptimConfig,
    ParallelConfig,
    Precision,
    StageConfig,
    Trainable,
)
from owl.errors import ConfigError
from owl.mcore.launch import run_in_processes
from owl.mcore.process_groups import process_groups
from owl.model.lora import is_adapter
from owl.train.run import train
from tests.tiny_run import losses, tiny_run
from tests.unit.model.packs import PLACES, make_pack

QV = LoraConfig(targets=[LoraTarget.q, LoraTarget.v], rank=2, alpha=4.0, dropout=0.3)
ALL = LoraConfig(targets=list(LoraTarget), rank=2, alpha=4.0)
FROZEN = Trainable(vision_tower=False, projector=False, language_model=False, fusion=False)
STEPS = 4


def layout(**degrees) -> ParallelConfig:
    return ParallelConfig(device=DeviceKind.cpu, timeout_minutes=1, **degrees)


def lora_run(folder: Path, lora: LoraConfig, **changes):
    """Float64 without clipping, which Megatron measures in float32."""
    settings = {
        "stage": StageConfig(name="test", trainable=FROZEN, train_steps=STEPS),
        "precision": Precision.fp64,
        "optim": OptimConfig(learning_rate=1e-2, warmup_fraction=0.0, clip_grad_norm=0.0),
    }
    return tiny_run(folder, lora=lora, **(settings | changes))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of one process without interruption, by their adapters: run and losses."""
    done = {}
    for name, lora in {"qv": QV, "all": ALL}.items():
        run = lora_run(tmp_path_factory.mktemp(name), lora)
        train(run)
        done[name] = run, losses(Path(run.output))
    return done


def elsewhere(run, name: str, **changes):
    return replace(run, output=str(Path(run.output).with_name(name)), **changes)


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    with process_groups(layout(), alone=True):
        return load_tensors(checkpoint)


def resumed_from(run, step: int, name: str, **changes):
    """Describe a run in a folder of its own that resumes from another one's checkpoint."""
    copy = elsewhere(run, name, **changes)
    source = checkpoint_path(Path(run.output), step)
    target = checkpoint_path(Path(copy.output), step)
    target.parent.mkdir(parents=True)
    target.symlink_to(source)
    return copy


@pytest.mark.parametrize(
    ("adapters", "processes", "degrees"),
    [
        ("all", 4, {"tensor": 2, "pipeline": 2, "sequence": True}),
        # Dropout: masks are equal over a tensor group where the input is.
        ("qv", 2, {"tensor": 2}),
    ],
)
def test_losses_are_those_of_one_process(runs, adapters, processes, degrees):
    run, expected = runs[adapters]
    other = elsewhere(run, "layout", parallel=layout(**degrees))

    run_in_processes(train, processes, other)

    assert len(set(expected)) == STEPS, "the losses do not move: nothing is compared"
    assert losses(Path(other.output)) == pytest.approx(expected, rel=1e-10)


def test_a_resumed_run_costs_no_bit_and_keeps_its_masks(tmp_path):
    run = lora_run(tmp_path, QV, precision=Precision.fp32)
    train(run)
    resumed = resumed_from(run, 2, "resumed")

    train(resumed)

    assert losses(Path(resumed.output)) == losses(Path(run.output))[2:]


def test_a_checkpoint_of_two_ranks_goes_on_in_one(runs):
    run, _ = runs["all"]
    two = elsewhere(run, "two", parallel=layout(tensor=2, sequence=True))
    two.stage = replace(two.stage, train_steps=2)
    two.optim = replace(two.optim, decay="constant", min_learning_rate=0.0)
    one = elsewhere(run, "straight", optim=two.optim)
    run_in_processes(train, 2, two)
    train(one)

    back = resumed_from(two, 2, "back", parallel=layout(), stage=run.stage)
    train(back)

    assert losses(Path(back.output)) == pytest.approx(losses(Path(one.output))[2:], rel=1e-10)


def test_only_adapters_change(runs):
    run, _ = runs["all"]
    first, last = (tensors(checkpoint_path(Path(run.output), step)) for step in (2, STEPS))

    changed = {name for name in first if not torch.equal(first[name], last[name])}

    assert changed == {name for name in first if is_adapter(name)}
    assert load_lora_config(checkpoint_path(Path(run.output), 2)) == ALL


def test_the_same_adapters_are_trained_on(runs):
    run, expected = runs["all"]
    start = CheckpointConfig(start_from=run.output, every_steps=100)
    again = elsewhere(run, "again", checkpoint=start)

    train(again)

    assert losses(Path(again.output))[0] < expected[0]
    assert load_lora_config(checkpoint_path(Path(again.output), STEPS)) == ALL


@pytest.mark.parametrize("lora", [LoraConfig(), QV], ids=["none", "others"])
def test_other_adapters_are_merged_before_new_ones_start(runs, lora):
    run, _ = runs["all"]
    start = CheckpointConfig(start_from=run.output, every_steps=100)
    only_norms = Trainable(vision_tower=False, projector=True, language_model=False, fusion=False)
    stage = StageConfig(name="test", trainable=only_norms, train_steps=1)
    merged = elsewhere(run, f"merged{lora.rank}", checkpoint=start, lora=lora, stage=stage)
    merged.optim = replace(run.optim, learning_rate=1e-12, min_learning_rate=0.0)

    train(merged)

    with loaded_model(Path(run.output), Precision.fp64) as model:
        expected = model.logits(make_pack(PLACES))
    with loaded_model(Path(merged.output), Precision.fp64) as model:
        torch.testing.assert_close(model.logits(make_pack(PLACES)), expected, rtol=1e-8, atol=1e-8)


def test_a_run_is_not_resumed_with_other_adapters(runs):
    run, _ = runs["all"]

    with pytest.raises(ConfigError, match=r"rank 2, alpha 4 on .* lora= gives no adapters"):
        train(replace(run, lora=LoraConfig(), stage=replace(run.stage, trainable=Trainable())))
