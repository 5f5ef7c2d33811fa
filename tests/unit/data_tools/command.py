# SPDX-License-Identifier: Apache-2.0
"""Runs a data tool the way its users do."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]


def run_tool(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `python SCRIPT ARGUMENTS` in the repository."""
    return subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
