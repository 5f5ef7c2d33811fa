# SPDX-License-Identifier: Apache-2.0
"""Two runs may not write into one folder at the same time."""

import os
import signal
import subprocess
import sys

import pytest

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


def test_the_other_ranks_of_a_run_go_in_freely(tmp_path, monkeypatch):
    with sole_run(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with sole_run(tmp_path):
            pass
