# SPDX-License-Identifier: Apache-2.0
"""Several groups of parameters with rates of their own, saved in one layout, resumed in another."""

from dataclasses import replace
from pathlib import Path

import pytest

from owl.config.run import (
    DeviceKind,
    LrDecay,
    OptimConfig,
    ParallelConfig,
    PartRates,
    Precision,
    StageConfig,
)
from owl.mcore.launch import run_in_processes
from owl.train.metrics_writers import read_metrics
from owl.train.run import train
from tests.tiny_run import EVERYTHING, losses, tiny_run

# Float64, and no clipping, whose norm is float32: layouts differ by the order of sums only.
OPTIM = OptimConfig(
    learning_rate=1e-3,
    rates=PartRates(vision_tower=1e-2, projector=2e-3),
    tower_layer_decay=0.5,
    warmup_fraction=0.0,
    clip_grad_norm=0.0,
    distributed=True,
)


def steps(run, count: int, **degrees):
    stage = StageConfig(name="test", trainable=EVERYTHING, train_steps=count)
    layout = ParallelConfig(device=DeviceKind.cpu, timeout_minutes=2, **degrees)
    return replace(run, stage=stage, parallel=layout)


@pytest.mark.timeout(240)
def test_a_run_over_changing_layouts_equals_one_process(tmp_path):
    optim = replace(OPTIM, decay=LrDecay.constant)  # a decay depends on the last step
    run = tiny_run(tmp_path, precision=Precision.fp64, optim=optim, train_steps=6)
    train(run)
    plain = replace(optim, rates=PartRates(), tower_layer_decay=1.0)
    train(replace(run, optim=plain, output=str(tmp_path / "plain")))
    stopped = replace(run, output=str(tmp_path / "stopped"))

    run_in_processes(train, 4, steps(stopped, 2, tensor=2))
    run_in_processes(train, 2, steps(stopped, 4, pipeline=2))
    train(steps(stopped, 6))

    expected = losses(Path(run.output))
    # The distributed optimizer's moments are stored in float32.
    assert losses(tmp_path / "stopped") == pytest.approx(expected, rel=1e-7)
    assert losses(tmp_path / "plain")[2:] != pytest.approx(expected[2:], rel=1e-4)
    last = read_metrics(tmp_path / "stopped" / "metrics.jsonl")[-1]
    assert last["learning_rate/vision_tower"] == pytest.approx(1e-2)
