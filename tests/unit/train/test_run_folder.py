# SPDX-License-Identifier: Apache-2.0
"""Two runs may not write into one folder at the same time."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from filelock import FileLock

from owl.errors import ConfigError
from owl.train.run_folder import sole_run

HOLD = """
import sys, time
from pathlib import Path
from owl.train.run_folder import sole_run
with sole_run(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_until_the_first_one_is_gone_even_if_killed(tmp_path):
    folder = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"

        with pytest.raises(ConfigError, match=f"another run .process {other.pid} on"):
            sole_run(folder).__enter__()
        other.send_signal(signal.SIGKILL)
        other.wait()

        with sole_run(folder):
            assert (folder / ".lock").read_text().startswith(f"process {os.getpid()} on ")


FORK = """
import os, sys, time
from pathlib import Path
from owl.train.run_folder import sole_run
with sole_run(Path(sys.argv[1])):
    if not os.fork():
        print("held", flush=True)  # the worker runs: it has let go of what it inherited
    time.sleep(60)
"""


def test_a_forked_worker_that_outlives_its_killed_run_does_not_hold_the_folder(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", FORK, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as other:
        assert other.stdout.readline() == "held\n"
        other.send_signal(signal.SIGKILL)
        other.wait()
        try:
            with sole_run(tmp_path):
                pass
        finally:
            os.killpg(other.pid, signal.SIGKILL)  # the worker


def test_a_disk_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(*args, **kwargs):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    monkeypatch.setattr("owl.train.run_folder.logger.propagate", True)
    with sole_run(tmp_path):
        assert "cannot be locked" in caplog.text


def test_the_other_ranks_of_a_run_are_not_locked_out(tmp_path, monkeypatch):
    with sole_run(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with sole_run(tmp_path):
            pass
