# SPDX-License-Identifier: Apache-2.0
"""A killed run resumes as if it had never stopped."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from owl.config.load import compose, to_yaml
from owl.train.metrics_writers import read_metrics
from tests.tiny_run import losses, tiny_run

ROOT = Path(__file__).parents[2]
TRAIN = """
import sys
from pathlib import Path
from owl.config.load import compose
from owl.train.run import train
config = Path(sys.argv[1])
train(compose(config.stem, [], config_dirs=[config.parent])[0])
"""


def start(config: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(config)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def write_config(path: Path, output: Path) -> Path:
    run = tiny_run(path.parent, train_steps=12)
    run.output = str(output)
    run.checkpoint.every_steps = 4
    path.write_text(to_yaml(run))
    assert compose(path.stem, [], config_dirs=[path.parent]) == (run, [])
    return path


def steps_done(output: Path) -> int:
    metrics = output / "metrics.jsonl"
    return len(read_metrics(metrics)) if metrics.is_file() else 0


def kill_after_step(process: subprocess.Popen, output: Path, step: int) -> None:
    deadline = time.monotonic() + 60
    while steps_done(output) < step:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, "the run makes no progress"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_sigkill_between_checkpoints_costs_no_bit(tmp_path):
    straight = write_config(tmp_path / "straight.yaml", tmp_path / "straight")
    killed = write_config(tmp_path / "killed.yaml", tmp_path / "killed")
    process = start(straight)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output

    kill_after_step(start(killed), tmp_path / "killed", step=6)
    after_kill = steps_done(tmp_path / "killed")
    again = start(killed)
    output, _ = again.communicate(timeout=120)

    assert again.returncode == 0, output
    assert 6 <= after_kill < 12
    assert "resuming from" in output
    assert "step_00000004" in output or "step_00000008" in output
    assert losses(tmp_path / "killed") == losses(tmp_path / "straight")
    assert len(losses(tmp_path / "straight")) == 12
