# SPDX-License-Identifier: Apache-2.0
"""The training model computes what the published code computed, stored in tests/golden."""

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

GOLDEN = Path(__file__).parents[1] / "golden"


def golden(folder: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "owl.parity", "golden", str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("options", [(), ("--packed",), ("--tensor", "2", "--packed")], ids=str)
@pytest.mark.parametrize("variant", ["240728", "241014", "241101"])
def test_every_case_is_within_tolerance(variant, options):
    done = golden(GOLDEN / variant, *options)

    assert done.returncode == 0, done.stdout + done.stderr
    for quantity in ("logits", "vision_hidden_m2", "image_embeds", "loss", "gradients"):
        assert quantity in done.stdout
    assert "OUTSIDE" not in done.stdout


SPLICING = {
    "owl2": [
        (),
        ("--packed",),
        ("--tensor", "2"),
        ("--pipeline", "2"),
        ("--tensor", "2", "--sequence", "--packed"),
        ("--tensor", "2", "--image-parallel"),
    ],
    "owl1": [("--packed",), ("--pipeline", "2"), ("--tensor", "2", "--sequence")],
}


@pytest.mark.parametrize(
    ("family", "options"),
    [(family, options) for family, each in SPLICING.items() for options in each],
    ids=str,
)
def test_families_that_splice_are_within_tolerance_with_the_tower_trained(family, options):
    done = golden(GOLDEN / family, *options)

    assert done.returncode == 0, done.stdout + done.stderr
    for quantity in ("logits", "vision_output", "abstractor_output", "loss", "gradients"):
        assert quantity in done.stdout
    assert "OUTSIDE" not in done.stdout


def test_a_weight_that_is_slightly_off_is_caught(tmp_path):
    for file in (GOLDEN / "240728").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    weights["language_model.model.layers.2.self_attn.v_kv_proj.weight"] *= 1.001
    save_file(weights, tmp_path / "model.safetensors")

    done = golden(tmp_path)

    assert done.returncode == 1, done.stdout + done.stderr
    assert "OUTSIDE TOLERANCE" in done.stdout


def test_a_folder_without_cases_is_an_error_not_a_pass(tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((GOLDEN / "240728" / name).read_bytes())
    (tmp_path / "index.json").write_text("{}")

    done = golden(tmp_path)

    assert done.returncode != 0
    assert "nothing was compared" in done.stderr
