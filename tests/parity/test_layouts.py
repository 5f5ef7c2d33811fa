# SPDX-License-Identifier: Apache-2.0
"""The `layouts` command: each feature once in the default run, everything when asked."""

import json
import subprocess
import sys
from itertools import combinations

import pytest

from owl.config.run import FusionKind
from owl.parity.layouts import Layout, covering, features, fits


def layouts(*options: str, timeout: int = 280) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "owl.parity", "layouts", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def test_each_feature_computes_the_model_of_one_process(tmp_path):
    done = layouts("--each-once", "--variant", "241101", "--json", str(tmp_path / "results.json"))

    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results) >= 4
    assert all(0 < result["worst"]["gradients"] <= 1e-10 for result in results)


def test_a_planted_fault_is_caught():
    done = layouts(
        *("--each-once", "--variant", "241101"), *("--only", "TP4", "--break", "mask-off-by-one")
    )

    assert done.returncode == 1, done.stdout + done.stderr
    assert "OUTSIDE" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("variant", ["240728", "241014", "241101"])
def test_every_planted_fault_is_caught(variant):
    done = layouts("--each-once", "--variant", variant, "--break", "all", timeout=900)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 missed" in done.stdout


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("fusion", list(FusionKind), ids=str)
def test_every_pair_of_features_that_fits_is_covered(fusion, processes):
    chosen = covering(fusion, processes)

    covered = {pair for layout in chosen for pair in pairs(layout)}
    values = features(fusion)
    for (first, firsts), (second, seconds) in combinations(values.items(), 2):
        for one in firsts:
            for other in seconds:
                possible = can_meet({first: one, second: other}, values, processes)
                assert ((first, one), (second, other)) in covered or not possible
    assert len(chosen) >= 24
    assert len(set(chosen)) == len(chosen)


def pairs(layout: Layout):
    return combinations([(name, getattr(layout, name)) for name in features_of(layout)], 2)


def features_of(layout: Layout):
    return list(vars(layout)) if hasattr(layout, "__dict__") else list(layout.__dataclass_fields__)


def can_meet(partial, values, processes) -> bool:
    free = {name: options for name, options in values.items() if name not in partial}
    shaping = {n: free.get(n, [partial.get(n)]) for n in ("tensor", "pipeline", "rows", "stages")}
    return any(
        fits({"tensor": t, "pipeline": p, "rows": r, "stages": s} | partial, processes)
        for t in shaping["tensor"]
        for p in shaping["pipeline"]
        for r in shaping["rows"]
        for s in shaping["stages"]
    )
