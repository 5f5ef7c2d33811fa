# SPDX-License-Identifier: Apache-2.0
"""A loader process stays small on samples of 200 pictures and on pictures of 12 megapixels."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.data.shard_factory import write_tokenizer

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_the_extremes_of_real_data_stay_under_a_gibibyte_and_a_half(tmp_path):
    # A process of its own: peak memory is counted per process and never falls.
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.loader_memory", str(write_tokenizer(tmp_path / "t"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
