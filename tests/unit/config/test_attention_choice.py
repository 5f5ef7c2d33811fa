# SPDX-License-Identifier: Apache-2.0
"""Attention backends that cannot run on the run's device are reported before it starts."""

import pytest

from owl.config.check import run_problems
from owl.config.load import compose


def problems_of(*overrides: str) -> list[str]:
    run, problems = compose("pretrain", overrides)
    assert problems == []
    return run_problems(run, world_size=1)


@pytest.mark.parametrize("kind", ["reference", "per_sample", "lse_merge"])
def test_most_backends_run_anywhere(kind):
    assert problems_of(f"model.attention={kind}", "parallel.device=cpu") == []


def test_flex_needs_a_gpu():
    (problem,) = problems_of("model.attention=flex", "parallel.device=cpu")

    assert problem.startswith("model.attention=flex needs a GPU, but parallel.device=cpu")
    assert "model.attention=per_sample" in problem


def test_a_plan_for_gpus_may_be_made_on_a_cpu():
    assert problems_of("model.attention=flex", "parallel.device=cpu", "dry_run=true") == []


def test_flex_has_no_float64():
    found = problems_of("model.attention=flex", "dry_run=true", "precision=fp64")

    assert any("no kernel for precision=fp64" in problem for problem in found)
