# SPDX-License-Identifier: Apache-2.0
"""What a rehearsal is for: it sees a wait, a copy and a hang that were put into the model."""

import json
import subprocess
import sys
from typing import Any

import pytest


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.rehearsal.planted"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_the_model_as_it_is_waits_once_a_step_in_its_layers_never(seen: dict[str, Any]) -> None:
    assert seen["as it is"]["hang"] is None
    assert not [wait for wait in seen["as it is"]["waits"] if "owl/model" in wait]


def test_a_number_read_back_in_a_layer_is_seen(seen: dict[str, Any]) -> None:
    new = set(seen["reads back"]["waits"]) - set(seen["as it is"]["waits"])
    assert new and all("_local_scalar_dense" in wait for wait in new)


def test_a_copy_kept_for_the_backward_pass_is_seen(seen: dict[str, Any]) -> None:
    assert seen["keeps a copy"]["peak"] > 1.05 * seen["as it is"]["peak"]


def test_a_collective_that_only_some_ranks_enter_is_seen(seen: dict[str, Any]) -> None:
    hang = seen["asks when there are pictures"]["hang"]
    assert "allreduce" in hang and "rank 2" in hang and "owl/" in hang
