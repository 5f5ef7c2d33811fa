# SPDX-License-Identifier: Apache-2.0
"""Whole commands on a GPU, each in a process of its own, as a user starts them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.gpu, pytest.mark.timeout(580)]

# A run over real shards, then the same command again with more steps: it resumes.
TRAIN = """
import sys
from dataclasses import replace
from pathlib import Path
from owl.config.run import AttentionKind, DeviceKind, ParallelConfig, Precision
from owl.train.run import train
from tests.tiny_run import losses, tiny_model, tiny_run
if __name__ == "__main__":
    folder, attention = Path(sys.argv[1]), AttentionKind(sys.argv[2])
    run = tiny_run(
        folder,
        model=tiny_model(hidden_size=64, attention=attention),
        precision=Precision.bf16,
        parallel=ParallelConfig(device=DeviceKind.auto, timeout_minutes=5),
    )
    train(replace(run, dry_run=True))
    train(run)
    assert len(losses(Path(run.output))) == 4
    more = replace(run, stage=replace(run.stage, train_steps=6))
    train(more)
    assert len(losses(Path(run.output))) == 6
"""


def run(*command: object) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=560
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize("attention", ["per_sample", "flex"])
def test_a_run_starts_trains_saves_and_resumes(tmp_path, attention):
    script = tmp_path / "run.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{TRAIN}")

    said = run(sys.executable, script, tmp_path, attention)

    assert "step 6/6" in said


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_flex_is_among_the_layouts_that_a_gpu_compares(dtype):
    command = ("layouts", "--device", "cuda", "--processes", 1, "--dtype", dtype, "--each-once")

    said = run(sys.executable, "-m", "owl.parity", *command)

    assert "flex" in said
    assert " 0 outside" in said


def test_the_cpu_of_a_gpu_machine_is_there_for_who_asks():
    command = ("layouts", "--device", "cpu", "--processes", 1, "--each-once", "--variant", "240728")

    assert " 0 outside" in run(sys.executable, "-m", "owl.parity", *command)
