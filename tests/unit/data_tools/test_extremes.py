# SPDX-License-Identifier: Apache-2.0
"""Extremes of real data are packed, trained on and previewed, by the words a user would type."""

import json

import pytest

from benchmarks.loader_memory import write
from tests.unit.data.shard_factory import write_tokenizer
from tests.unit.data_tools.command import run_command, run_tool

EXTREMES = {"many_images": 200, "text_only": 0, "large_picture": 7}
"""Source of a single sample -> its tiles; many_samples has 3,000 of one tile."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_extremes_are_packed_trained_on_and_previewed(tmp_path):
    sources = write(tmp_path)
    words = [
        "data=own",
        *(f"data.sources.{name}.path={source.path}" for name, source in sources.items()),
        *(f"data.sources.{name}.epochs=1" for name in sources),
        "data.sources.large_picture.cut=on",
        f"data.tokenizer={write_tokenizer(tmp_path / 'tokenizer')}",
        "pack.text_tokens=8192",
        "pack.tiles=208",
        "pack.window=4096",
        "checkpoint.start_from=null",
        "model.vocab_size=259",
    ]
    planned = run_tool("data_tools/plan.py", "--json", *words, "batch.global_batch_size=2")
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    assert (plan["dropped"], plan["samples_per_epoch"]) == ({}, 3003)

    half = -(-plan["packs_per_epoch"] // 2)  # so two steps are one epoch
    words.append(f"batch.global_batch_size={half}")
    output = tmp_path / "run"
    trained = run_command(
        "pretrain_owl3.py", *words, "stage.train_steps=2", f"output={output}", timeout=600
    )
    assert trained.returncode == 0, trained.stdout + trained.stderr
    steps = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert sum(step["samples"] for step in steps) >= 3003
    assert sum(step["tiles"] for step in steps) >= 3000 + sum(EXTREMES.values())
    assert not any(name.startswith("skipped/") for step in steps for name in step)

    page = tmp_path / "p.html"
    for name, tiles in EXTREMES.items():
        shown = run_tool("data_tools/preview.py", "--sample", f"{name}:0", "--output", page, *words)
        assert (shown.returncode, shown.stdout[:5]) == (0, "wrote"), shown.stderr
        text = page.read_text(encoding="utf-8")
        assert f"Sample 0 of {name}" in text
        assert text.count("data:image/") >= tiles
    assert run_tool("data_tools/preview.py", "--output", page, *words).returncode == 0
