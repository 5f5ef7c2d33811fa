# SPDX-License-Identifier: Apache-2.0
import json
import shutil

from owl.data.shards.index import index_path
from owl.data.shards.tar import TarWriter
from tests.unit.data.shard_factory import chat, files_of, write_chats, write_shard, write_tokenizer
from tests.unit.data_tools.command import run_command, run_tool


def lint(*arguments):
    return run_tool("data_tools/lint.py", *arguments)


def test_a_good_folder_gives_exit_code_zero(tmp_path):
    folder = write_chats(tmp_path / "a", shards=2)
    result = run_command("data_tools/lint.py", folder, "--workers", 2)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == "2 shards, 20 samples: 20 good, 0 bad"


def test_problems_are_named_in_text_and_in_json_with_exit_code_one(tmp_path):
    bad = chat(pictures=1, w=999)
    write_shard(tmp_path / "s.tar", [("x", chat(), {}), ("y", bad, files_of(bad))])
    text, machine = lint(tmp_path), lint(tmp_path, "--json")
    assert text.returncode == machine.returncode == 1
    assert "E306 sample 'y' (byte 1024): media[0] declares 999x12" in text.stdout
    account = json.loads(machine.stdout)
    assert (account["samples"], account["good"], account["bad"]) == (2, 1, 1)
    assert account["codes"] == {"E306": 1}
    assert account["shards"][0]["bad"][0]["key"] == "y"


def test_an_index_of_another_shard_is_named(tmp_path):
    folder = write_chats(tmp_path / "a", shards=2)
    shutil.copy(index_path(folder / "s-001.tar"), index_path(folder / "s-000.tar"))
    result = lint(folder)
    assert result.returncode == 1
    assert (
        "E109 shard: its index is not the one that dataset.json was written with" in result.stdout
    )
    assert "20 good, 0 bad" in result.stdout


def test_budgets_are_counted_when_a_tokenizer_is_given(tmp_path):
    folder = write_chats(tmp_path / "a", shards=1)
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    result = lint(folder, "--tokenizer", tokenizer, "--text-tokens", 100, "--cut", "on")
    assert result.returncode == 1
    assert "text tokens are more than the 100 of a pack" in result.stdout


def test_marks_of_the_template_are_no_fault_when_the_run_escapes_them(tmp_path):
    document = json.dumps(chat("What does <|image|> mean?")).encode()
    with TarWriter(tmp_path / "s.tar") as writer:
        writer.write("x.json", document)
    assert "E206 sample 'x'" in lint(tmp_path).stdout
    assert lint(tmp_path, "--escape").returncode == 0


def test_long_lists_of_bad_samples_are_cut_in_text(tmp_path):
    document = chat(pictures=1, w=999)
    triples = [(f"k{i}", document, files_of(document)) for i in range(5)]
    write_shard(tmp_path / "s.tar", triples)
    result = lint(tmp_path, "--show", 2)
    assert "and 3 more bad samples" in result.stdout


def test_what_cannot_be_looked_at_gives_exit_code_two(tmp_path):
    assert "is not a folder" in lint(tmp_path / "nowhere").stderr
    assert "has no *.tar" in lint(tmp_path).stderr
    write_shard(tmp_path / "s.tar", [("x", chat(), {})])
    for option, complaint in (
        (["--workers", 0], "--workers 0: use at least 1"),
        (["--tokenizer", tmp_path], "E404"),
    ):
        result = lint(tmp_path, *option)
        assert result.returncode == 2
        assert complaint in result.stderr


def test_a_sample_is_measured_as_a_run_with_the_same_cut_would(tmp_path):
    document = chat(pictures=1)
    write_shard(tmp_path / "a/s.tar", [("k", document, files_of(document, width=48, height=32))])
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    options = ["--tokenizer", tokenizer, "--image-size", 16, "--tiles", 4]
    assert lint(tmp_path / "a", *options).returncode == 0
    cut = lint(tmp_path / "a", *options, "--cut", "on")
    assert cut.returncode == 1
    assert "7 tiles are more than the 4 of a pack, with pictures cut as data.cut=on" in cut.stdout
    published = lint(tmp_path / "a", *options, "--cut", "published")
    assert "in one of five passes" in published.stdout
    assert lint(tmp_path / "a", *options, "--max-frames", 0).returncode == 2
