# SPDX-License-Identifier: Apache-2.0
import json

import pytest

from tests.unit.data.shard_factory import chat, files_of, write_chats, write_shard, write_tokenizer
from tests.unit.data_tools.command import run_command, run_tool


def info(*arguments):
    return run_tool("data_tools/info.py", *arguments)


def test_pictures_are_counted_and_tokens_where_they_are_known(tmp_path):
    folder = write_chats(tmp_path / "a")
    before = run_command("data_tools/info.py", folder)
    assert before.returncode == 0
    assert "2 shards" in before.stdout
    assert "pictures of a sample: 19 in all, 0.9 on average" in before.stdout
    assert "tokens are not counted: run owl data prepare" in before.stdout

    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    run_tool("data_tools/prepare.py", folder, "--tokenizer", tokenizer, "--image-size", 16)
    after = info(folder)
    assert "text tokens of a sample, pictures uncut" in after.stdout
    assert "tiles of a sample, pictures cut" in after.stdout


def test_the_same_figures_come_as_json_and_invalid_samples_are_left_out(tmp_path):
    bad = chat(pictures=1, w=999)
    good = chat(pictures=1)
    write_shard(tmp_path / "s.tar", [("a", good, files_of(good)), ("b", bad, files_of(bad))])
    run_tool("data_tools/prepare.py", tmp_path)
    figures = json.loads(info(tmp_path, "--json").stdout)
    assert figures["samples"] == 2
    assert figures["invalid"] == {"E306": 1}
    assert figures["distributions"][0]["total"] == 1


def test_samples_of_text_alone_and_shards_that_are_not_used_are_stated(tmp_path):
    folder = write_chats(tmp_path / "a")
    for name in ("later-1", "later-2", "later-3", "later-4"):
        (folder / f"{name}.tar").write_bytes(b"broken")
    printed = info(folder).stdout
    assert "without pictures or videos: 7 samples (35.0%)" in printed
    assert "4 shard(s) of" in printed
    assert "later-1.tar, later-2.tar, later-3.tar and 1 more" in printed
    assert json.loads(info(folder, "--json").stdout)["unlisted"][-1] == "later-4.tar"


def test_histograms_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    folder = write_chats(tmp_path / "a")
    assert info(folder, "--png", tmp_path / "x.png").returncode == 0
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_is_not_prepared_gives_exit_code_two(tmp_path):
    result = info(tmp_path)
    assert result.returncode == 2
    assert "Run owl data prepare" in result.stderr


def test_a_folder_that_is_not_there_is_not_told_to_be_prepared(tmp_path):
    result = info(tmp_path / "nowhere")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"info: {tmp_path}/nowhere is not a folder.")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("no/p.png", "no such folder"), (".", "is a folder"), ("p.docx", "suffix must be one of")],
)
def test_a_drawing_that_has_no_place_is_refused_first(tmp_path, name, complaint):
    pytest.importorskip("matplotlib")
    result = info(write_chats(tmp_path / "a"), "--png", tmp_path / name)
    assert (result.returncode, result.stdout) == (2, "")
    assert complaint in result.stderr
