# SPDX-License-Identifier: Apache-2.0
"""metrics.jsonl: full precision, one history however often a run was killed."""

import math
import sys
from pathlib import Path

import pytest

from owl.config.run import LogConfig
from owl.errors import ConfigError
from owl.train.metrics_writers import METRICS_FILE, JsonlWriter, build_writers, read_metrics


def write_steps(path: Path, steps: range, *, resumed_step: int, loss: float = 0.5) -> None:
    writer = JsonlWriter(path, resumed_step)
    for step in steps:
        writer.write(step, {"loss": loss})
    writer.close()


def test_floats_come_back_bit_for_bit(tmp_path: Path):
    path, loss = tmp_path / METRICS_FILE, math.pi / 3e7
    write_steps(path, range(1, 2), resumed_step=0, loss=loss)
    assert read_metrics(path) == [{"step": 1, "loss": loss}]


def test_resume_drops_the_steps_that_come_again(tmp_path: Path):
    path = tmp_path / METRICS_FILE
    write_steps(path, range(1, 8), resumed_step=0, loss=1.0)

    write_steps(path, range(6, 9), resumed_step=5, loss=2.0)

    lines = read_metrics(path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [line["loss"] for line in lines] == [1.0] * 5 + [2.0] * 3


def test_the_half_line_of_a_killed_writer_is_dropped(tmp_path: Path):
    path = tmp_path / METRICS_FILE
    path.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')

    assert [line["step"] for line in read_metrics(path)] == [1]
    write_steps(path, range(2, 3), resumed_step=1)
    assert [line["step"] for line in read_metrics(path)] == [1, 2]


def test_a_line_is_there_before_the_writer_is_closed(tmp_path: Path):
    path = tmp_path / METRICS_FILE
    writer = JsonlWriter(path, 0)
    writer.write(1, {"loss": 1.0})
    assert len(read_metrics(path)) == 1
    writer.close()


def test_what_is_no_number_is_null(tmp_path: Path):
    path = tmp_path / METRICS_FILE
    write_steps(path, range(1, 2), resumed_step=0, loss=math.nan)
    assert read_metrics(path) == [{"step": 1, "loss": None}]


def test_tensorboard_writes_event_files(tmp_path: Path):
    pytest.importorskip("tensorboard")
    writers = build_writers(LogConfig(tensorboard=True), tmp_path, resumed_step=0)
    for writer in writers:
        writer.write(1, {"loss": 1.0})
        writer.close()
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_a_missing_package_is_named_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"log\.wandb=true needs the package wandb"):
        build_writers(LogConfig(wandb=True), tmp_path, resumed_step=0)
