# SPDX-License-Identifier: Apache-2.0
"""Runs a data tool the way its users do."""

import contextlib
import io
import runpy
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

REPOSITORY = Path(__file__).parents[3]


class Result(NamedTuple):
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


def run_tool(script: str, *arguments: object) -> Result:
    """Run a script as `__main__` in this process: a new one takes seconds to import torch."""
    stdout, stderr = io.StringIO(), io.StringIO()
    argv = [script, *map(str, arguments)]
    with (
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            runpy.run_path(str(REPOSITORY / script), run_name="__main__")
            code = 0
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    return Result(code, stdout.getvalue(), stderr.getvalue())


def run_command(script: str, *arguments: object, timeout: float = 120) -> Result:
    """Run `python SCRIPT ARGUMENTS` in the repository, as its own process."""
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)
