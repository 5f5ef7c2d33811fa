# SPDX-License-Identifier: Apache-2.0
"""The `layouts` command: each feature once in the default run, everything when asked."""

import json
import subprocess
import sys
from itertools import combinations, product

import pytest

from owl.config.run import FamilyKind, Recompute
from owl.model.families import BUILDS
from owl.parity.faults import FAULTS, faults_of
from owl.parity.layouts import TRAINABLE, Layout, covering, features, fits

SMALL = BUILDS[FamilyKind.owl3].small_models(head_dim=4)
OTHERS = ["owl2", "owl1"]


def layouts(*options: str, timeout: int = 280) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "owl.parity", "layouts", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def test_each_feature_computes_the_model_of_one_process(tmp_path):
    done = layouts("--each-once", "--variant", "241101", "--output", str(tmp_path / "results.json"))

    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results) >= 4
    assert all(0 < result["worst"]["gradients"] <= 1e-10 for result in results)


@pytest.mark.parametrize("family", ["owl2", pytest.param("owl1", marks=pytest.mark.slow)])
def test_each_feature_computes_a_model_that_splices(family, tmp_path):
    done = layouts("--each-once", "--family", family, "--output", str(tmp_path / "results.json"))

    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    tried = {feature: {r["features"][feature] for r in results} for feature in ("stages", "learns")}
    assert tried == {"stages": {"even", "uneven", "interleaved"}, "learns": set(TRAINABLE)}
    assert {result["features"]["recompute"] for result in results} == set(map(str, Recompute))
    assert all(0 < result["worst"]["gradients"] <= 1e-10 for result in results)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("family", OTHERS)
def test_every_pair_of_features_computes_a_model_that_splices(family):
    done = layouts("--family", family, timeout=1800)

    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 outside" in done.stdout


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (("--variant", "241101"), "mask-off-by-one"),
        (("--family", "owl2"), "wrong-modality-copy"),
        pytest.param(("--family", "owl1"), "spliced-row-off-by-one", marks=pytest.mark.slow),
    ],
    ids=["241101", "owl2", "owl1"],
)
def test_a_planted_fault_is_caught(options, fault):
    done = layouts("--each-once", *options, "--only", "TP4", "--break", fault)

    assert done.returncode == 1, done.stdout + done.stderr
    assert "OUTSIDE" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "options",
    [*(("--variant", name) for name in SMALL), *(("--family", name) for name in OTHERS)],
    ids=str,
)
def test_every_planted_fault_is_caught(options):
    done = layouts("--each-once", *options, "--break", "all", timeout=900)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 missed" in done.stdout


def test_only_faults_that_break_something_are_planted_in_a_family():
    planted = {
        kind: faults_of(small.model, ["decoder.layers.0.self_attention.linear_media_kv.weight"])
        for kind in (FamilyKind.owl3, FamilyKind.owl2)
        for small in BUILDS[kind].small_models(head_dim=4).values()
    }

    assert {"mask-off-by-one", "position-shift"} <= set(planted[FamilyKind.owl3])
    assert {"spliced-row-off-by-one", "wrong-modality-copy"} <= set(planted[FamilyKind.owl2])
    assert set().union(*planted.values()) == set(FAULTS)
    assert "unreduced-gradient" in set(planted[FamilyKind.owl3]) & set(planted[FamilyKind.owl2])
    assert not {"wrong-modality-copy", "mask-off-by-one"} <= set(planted[FamilyKind.owl2])


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
