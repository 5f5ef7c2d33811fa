# SPDX-License-Identifier: Apache-2.0
"""The `layouts` command: each feature once in the default run, everything when asked."""

import json
import subprocess
import sys
from itertools import combinations, product

import pytest

from owl.config.run import FamilyKind
from owl.model.families import BUILDS
from owl.parity.layouts import Layout, covering, features, fits

SMALL = BUILDS[FamilyKind.owl3].small_models(head_dim=4)


def layouts(*options: str, timeout: int = 280) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "owl.parity", "layouts", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def test_each_feature_computes_the_model_of_one_process(tmp_path):
    done = layouts("--each-once", "--variant", "241101", "--output", str(tmp_path / "results.json"))

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


@pytest.mark.parametrize("processes", [2, 4, 8])
@pytest.mark.parametrize("variant", SMALL)
def test_every_pair_of_features_that_fits_is_covered(variant, processes):
    values = features(SMALL[variant], flex=True)

    chosen = covering(values, processes)

    covered = {pair for layout in chosen for pair in pairs(vars_of(layout, values), processes)}
    every = (dict(zip(values, choice, strict=True)) for choice in product(*values.values()))
    possible = {
        pair for choice in every if fits(choice, processes) for pair in pairs(choice, processes)
    }
    assert covered == possible
    assert len(chosen) >= 24
    assert len(set(chosen)) == len(chosen)


def test_what_shares_gradients_out_meets_every_feature_on_several_ranks():
    values = features(SMALL["240728"])

    chosen = covering(values, 4)

    shared = [each for each in chosen if each.tensor * each.pipeline <= 2]
    for gradients in ("sharded", "overlapped"):
        here = [each for each in shared if each.gradients == gradients]
        for feature in ("rows", "tower", "recompute", "attention", "cut", "learns"):
            assert {getattr(each, feature) for each in here} == set(values[feature]), feature
        assert {each.stages for each in here} == {"even", "uneven", "interleaved"}
        assert {each.tensor * each.pipeline for each in here} == {1, 2}


def vars_of(layout: Layout, values) -> dict:
    return {name: getattr(layout, name) for name in values}


def pairs(choice: dict, processes: int):
    data = processes // (choice["tensor"] * choice["pipeline"])
    shared = choice["gradients"] if data > 1 else "alone"
    return combinations(sorted((choice | {"data": data, "shared out": shared}).items()), 2)
