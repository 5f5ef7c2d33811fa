# SPDX-License-Identifier: Apache-2.0
"""Processes started on this machine end with the one that started them."""

import signal
import subprocess
import sys
import time
from pathlib import Path

PARENT = """
import signal, sys
from owl.mcore.launch import run_in_processes
from tests.unit.mcore.test_launch import sleep_noting_its_id
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell starts its background jobs
    run_in_processes(sleep_noting_its_id, 2, sys.argv[1])
"""


def sleep_noting_its_id(folder: str) -> None:
    import os

    Path(folder, os.environ["RANK"]).write_text(str(os.getpid()))
    time.sleep(120)


def is_alive(process_id: int) -> bool:
    status = Path(f"/proc/{process_id}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def wait_until(condition, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    ids = tmp_path / "ids"
    ids.mkdir()
    root = Path(__file__).parents[3]
    parent = subprocess.Popen(
        [sys.executable, script, ids], cwd=root, env={"PYTHONPATH": str(root), "PATH": ""}
    )
    assert wait_until(lambda: len(list(ids.iterdir())) == 2, 60), "the workers do not start"
    time.sleep(0.2)
    workers = [int(note.read_text()) for note in ids.iterdir()]
    assert all(is_alive(worker) for worker in workers)

    parent.send_signal(signal.SIGKILL)
    parent.wait()

    assert wait_until(lambda: not any(is_alive(worker) for worker in workers), 10)
