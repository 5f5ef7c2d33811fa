# SPDX-License-Identifier: Apache-2.0
import json
import re

import pytest

from owl.curate.prepare import prepare_folder
from tests.unit.data.shard_factory import chat, files_of, write_chats, write_shard, write_tokenizer
from tests.unit.data_tools.command import run_command, run_tool


@pytest.fixture
def words(tmp_path):
    """A run on own data, in the words of pretrain_owl3.py."""
    folder = write_chats(tmp_path / "a")
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    return [
        "data=own",
        f"data.sources.a.path={folder}",
        f"data.tokenizer={tokenizer}",
        "pack.text_tokens=300",
        "pack.tiles=12",
        "pack.window=10",
        "batch.global_batch_size=2",
    ]


def plan(*arguments):
    return run_tool("data_tools/plan.py", *arguments)


def test_the_figures_are_printed_and_budgets_suggested(words):
    result = run_command("data_tools/plan.py", "--dp", 2, *words)
    assert (result.returncode, result.stderr) == (0, "")
    assert "20 samples an epoch in 2 window(s) of 10; looked at 2" in result.stdout
    assert "of the bound, which pack.text_tokens sets" in result.stdout
    assert "imbalance over 2 rank(s)" in result.stdout
    assert "try pack.tiles=" in result.stdout


def test_the_same_figures_come_as_json(words):
    figures = json.loads(plan("--json", *words).stdout)
    assert figures["samples_per_epoch"] == 20
    assert figures["sources"]["a"]["samples"] == 20
    assert figures["steps_per_epoch"] == figures["packs_per_epoch"] / 2
    assert len(figures["imbalances"]) == figures["packs_per_epoch"] // 2


def test_packing_off_is_said(words):
    result = plan(*words, "pack.enabled=false")
    assert result.returncode == 0
    assert "packing is off: 20 samples" in result.stdout
    assert "try" not in result.stdout


def test_what_cannot_be_planned_is_said_with_exit_code_two(words):
    result = plan("--dp", 3, *words)
    assert result.returncode == 2
    assert "batch.global_batch_size=2 must be a multiple of 3" in result.stderr
    result = plan("data=own", "pack.tils=3")
    assert result.returncode == 2
    assert "pack.tils" in result.stderr


@pytest.mark.parametrize("option", ["--dp", "--samples"])
def test_counts_below_one_are_refused(option):
    result = run_tool("data_tools/plan.py", option, -5)
    assert result.returncode == 2
    assert result.stderr == f"plan: {option} -5: use 1 or more.\n"


def test_the_share_of_dropped_samples_and_what_keeps_them_is_said(words):
    few = plan(*words, "pack.text_tokens=50", "batch.global_batch_size=1").stdout
    dropped = re.search(r"dropped: (\d+\.\d)% of the samples, E401 (\d+)", few)
    assert dropped is not None
    assert float(dropped[1]) == pytest.approx(100 * int(dropped[2]) / 20, abs=0.05)
    assert "data.oversize=split" in few
    largest = re.search(r"pack.text_tokens=(\d+) holds every sample whole", few)
    assert largest is not None
    whole = plan(*words, f"pack.text_tokens={largest[1]}", "batch.global_batch_size=1").stdout
    assert "nothing is dropped" in whole
    truncated = plan(*words, "pack.text_tokens=30", "data.oversize=truncate").stdout
    assert "to keep them: pack.text_tokens=" in truncated


def test_equal_fills_are_no_praise_while_samples_are_dropped(tmp_path, words):
    long = chat("q" * 500)
    write_shard(tmp_path / "b/s.tar", [(f"k{n}", long, {}) for n in range(20)])
    picture = chat("q" * 5, "a" * 6, pictures=1)
    write_shard(tmp_path / "b/t.tar", [(f"k{n}", picture, files_of(picture)) for n in range(10)])
    assert prepare_folder(tmp_path / "b") == []
    mixed = [word.replace(str(tmp_path / "a"), str(tmp_path / "b")) for word in words]
    tokens = json.loads(plan("--json", *mixed).stdout)["longest"][0]
    printed = plan(*mixed, f"pack.text_tokens={4 * tokens}", "pack.tiles=4").stdout
    assert "run out together, but 66.7% of the samples are lost" in printed


def test_split_samples_and_packs_that_teach_nothing_are_stated(tmp_path, words):
    turns = [{"role": "document", "content": [{"text": "owl " * 100}]}]
    document = {"schema": "owl3-sample/1", "id": "d", "kind": "document", "turns": turns}
    write_shard(tmp_path / "text/s.tar", [(f"k{n}", document, {}) for n in range(5)])
    assert prepare_folder(tmp_path / "text") == []
    alone = [word.replace(str(tmp_path / "a"), str(tmp_path / "text")) for word in words]
    frozen = plan(*alone, "data.oversize=split").stdout
    assert "split into several parts: 100.0%" in frozen
    assert "without pictures or videos: 100.0%" in frozen
    assert "100.0% of the packs have no picture or video and teach nothing" in frozen
    learning = plan(*alone, "data.oversize=split", "stage.trainable.language_model=true").stdout
    assert "teach nothing" not in learning


def test_shards_added_after_prepare_are_named(tmp_path, words):
    write_shard(tmp_path / "a/later.tar", [("k", chat(), {})])
    printed = plan(*words).stdout
    assert "data.sources.a: 1 shard(s) of" in printed
    assert "are not in its dataset.json and not used: later.tar" in printed


def test_a_plan_that_keeps_nothing_names_no_steps_and_no_balance(words):
    nothing = plan(*words, "pack.text_tokens=2", "batch.global_batch_size=1").stdout
    assert "dropped: 100.0% of the samples" in nothing
    assert "no step can be made: no sample is kept" in nothing
    assert "run out together" not in nothing


def test_text_alone_is_not_called_balanced(tmp_path, words):
    document = chat(pictures=0)
    write_shard(tmp_path / "text/s.tar", [(f"k{n}", document, {}) for n in range(20)])
    assert prepare_folder(tmp_path / "text") == []
    alone = [word.replace(str(tmp_path / "a"), str(tmp_path / "text")) for word in words]
    printed = plan(*alone).stdout
    assert "no sample has a tile: only pack.text_tokens matters" in printed
    assert "run out together" not in printed
