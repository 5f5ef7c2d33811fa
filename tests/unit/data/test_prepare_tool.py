# SPDX-License-Identifier: Apache-2.0
import re
import subprocess
import sys
from pathlib import Path

from owl import progress
from owl.curate.prepare import ShardDone
from owl.curate.tools.prepare import ProgressPrinter
from tests.unit.data.shard_factory import chat, files_of, write_chats, write_shard, write_tokenizer

REPOSITORY = Path(__file__).parents[3]


def prepare(*arguments):
    return subprocess.run(
        [sys.executable, "data_tools/prepare.py", *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_good_folder_is_prepared_with_token_counts(tmp_path):
    folder = write_chats(tmp_path / "a", shards=2)
    (folder / "dataset.json").unlink()
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    result = prepare(folder, "--tokenizer", tokenizer, "--workers", 2)
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    for verb in ("indexed", "counted"):  # as they come: two processes share them
        done = {number: path for said, number, path, *_ in lines if said == verb}
        assert list(done) == ["1/2", "2/2"]
        assert set(done.values()) == {str(folder / "s-000.tar"), str(folder / "s-001.tar")}
    assert (folder / "dataset.json").is_file()
    assert len(list(folder.glob("*.tok.*"))) == 2


def test_invalid_samples_are_named_and_give_exit_code_one(tmp_path):
    bad = chat(pictures=1, w=999)
    write_shard(tmp_path / "s.tar", [("x", bad, files_of(bad))])
    result = prepare(tmp_path)
    assert result.returncode == 1
    assert "E306: shard s.tar: sample 'x'" in result.stderr


def test_a_folder_without_shards_gives_exit_code_two(tmp_path):
    result = prepare(tmp_path)
    assert result.returncode == 2
    assert "has no *.tar" in result.stderr


def test_help_says_what_the_exit_codes_mean():
    result = prepare("--help")
    assert result.returncode == 0
    assert "Exit code" in result.stdout


def test_a_long_preparation_says_how_long_is_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    folder = write_chats(tmp_path / "a", shards=2)
    printer = ProgressPrinter(folder)
    for number in (1, 2):
        printer(ShardDone("indexed", number, 2, folder / f"s-{number - 1:03}.tar"))
    first, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"indexed \d\d% \| .* \| .*B/s \| \d\d:\d\d left, s-000\.tar", first)
    assert re.fullmatch(r"indexed 100% \| .* \| .*B/s \| took 00:00, s-001\.tar", last)
