# SPDX-License-Identifier: Apache-2.0
"""A preparation that is stopped can be resumed, and what is known is not read again."""

import logging

import pytest

from owl.config.data_run import read_data_run
from owl.curate import prepare
from owl.curate.prepare import countings_of_run, prepare_folder
from owl.curate.prepare_journal import JOURNAL_FILE
from owl.curate.tools.prepare import main
from owl.data.open_run import open_loader
from owl.data.shards.index import DATASET_FILE, read_records
from owl.errors import ConfigError
from tests.unit.curate.converters.formats.test_captions import pair, write_tar
from tests.unit.data.shard_factory import chat, files_of, write_shard, write_tokenizer
from tests.unit.data_tools.command import run_tool


@pytest.fixture
def folder(tmp_path):
    """Five shards that are not prepared; the second has an invalid sample, the third is no tar."""
    home = tmp_path / "shards"
    for number in range(5):
        document = chat(pictures=1, w=999) if number == 1 else chat(pictures=1)
        write_shard(home / f"s-{number}.tar", [(f"k{number}", document, files_of(document))])
    (home / "s-2.tar").write_bytes(b"no tar at all" * 100)
    return home


@pytest.fixture
def read(monkeypatch):
    """Names of the shards that are read from now on; a name in `stop_at` interrupts."""
    names, index_shard = [], prepare.index_shard

    def counted(path, report):
        if path.name in names.stop_at:
            raise KeyboardInterrupt
        names.append(path.name)
        return index_shard(path, report=report)

    names = type("Names", (list,), {"stop_at": ()})()
    monkeypatch.setattr(prepare, "index_shard", counted)
    return names


def test_an_interrupted_preparation_does_not_start_over(folder, read):
    read.stop_at = ("s-3.tar",)
    with pytest.raises(KeyboardInterrupt):
        prepare_folder(folder)
    assert read == ["s-0.tar", "s-1.tar", "s-2.tar"]
    assert not (folder / DATASET_FILE).exists()
    read.stop_at = ()
    problems = prepare_folder(folder)
    assert read[3:] == ["s-2.tar", "s-3.tar", "s-4.tar"]  # a broken shard may have been repaired
    assert [line[:4] for line in problems] == ["E306", "E101"]
    names = [record.file for record in read_records(folder)]
    assert names == ["s-0.tar", "s-1.tar", "s-3.tar", "s-4.tar"]


def test_shards_with_invalid_samples_are_not_read_again_either(folder, read):
    first = prepare_folder(folder)
    assert len(read) == 5
    assert prepare_folder(folder) == first
    assert read[5:] == ["s-2.tar"]  # the broken one
    write_shard(folder / "s-2.tar", [("k2", chat(), {})])
    (folder / "s-1.tar").touch()
    assert prepare_folder(folder) == first[:1]
    assert sorted(read[6:]) == ["s-1.tar", "s-2.tar"]
    assert prepare_folder(folder) == first[:1]
    assert len(read) == 8


def test_a_line_that_a_crash_cut_off_costs_only_its_own_shard(folder, read):
    (folder / "s-2.tar").unlink()
    read.stop_at = ("s-3.tar",)
    with pytest.raises(KeyboardInterrupt):
        prepare_folder(folder)
    journal = folder / JOURNAL_FILE
    journal.write_bytes(journal.read_bytes()[:-40])  # of s-1
    read.stop_at = ("s-4.tar",)
    with pytest.raises(KeyboardInterrupt):
        prepare_folder(folder)
    read.stop_at = ()
    prepare_folder(folder)
    assert read == ["s-0.tar", "s-1.tar", "s-1.tar", "s-3.tar", "s-4.tar"]


def test_no_journal_is_left_beside_dataset_json(folder):
    prepare_folder(folder)
    assert not (folder / JOURNAL_FILE).exists()


def test_several_workers_give_the_same(folder):
    alone = prepare_folder(folder)
    description = (folder / DATASET_FILE).read_bytes()
    (folder / DATASET_FILE).unlink()
    assert prepare_folder(folder, workers=2) == alone
    assert (folder / DATASET_FILE).read_bytes() == description


def test_a_shard_that_is_kept_is_called_so(folder):
    run_tool("data_tools/prepare.py", folder)
    again = run_tool("data_tools/prepare.py", folder)
    assert again.stdout.count("unchanged ") == 4
    assert again.stdout.count("indexed ") == 1  # the broken one
    assert "E306" in again.stderr
    assert again.returncode == 1


# Counting as a run will.


def words_of(tmp_path, folder, *more):
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    return [
        "+experiment=stage2",
        "data=own",
        f"data.sources.mine.path={folder}",
        f"data.tokenizer={tokenizer}",
        "data.max_frames=8",
        "data.special_literals=escape",
        *more,
    ]


def test_counts_made_for_a_run_are_found_by_it(tmp_path, folder, caplog):
    (folder / "s-2.tar").unlink()
    words = words_of(tmp_path, folder)
    result = run_tool("data_tools/prepare.py", folder, *words)
    assert result.stdout.count("counted") == 4, result.stderr
    kept = sorted(folder.glob("*.tok.*"))
    with caplog.at_level(logging.INFO, "owl"):
        open_loader(read_data_run(words)).plan.window(0, 0)
    assert sorted(folder.glob("*.tok.*")) == kept
    assert "counting tokens" not in caplog.text


def test_sources_in_one_folder_with_other_frames_are_counted_apart(tmp_path, folder):
    words = words_of(
        tmp_path, folder, f"data.sources.b.path={folder}", "data.sources.b.max_frames=2"
    )
    countings = countings_of_run(read_data_run(words), folder)
    assert sorted(counting.max_frames for counting in countings) == [2, 8]


def test_a_run_without_the_folder_is_a_mistake(tmp_path, folder):
    words = words_of(tmp_path, tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"no data\.sources\.NAME\.path is .*mine=.*elsewhere"):
        countings_of_run(read_data_run(words), folder)
    assert run_tool("data_tools/prepare.py", folder, *words).returncode == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--image-size", "0"], "--image-size 0: use at least 1"),
        (["--workers", "0"], "--workers 0: use at least 1"),
        (["--tokenizer", "x", "data=own"], "give one of the two"),
        (["--tokenizer", "nowhere"], "there is no such folder"),
    ],
)
def test_arguments_that_cannot_be_are_refused(folder, arguments, complaint):
    result = run_tool("data_tools/prepare.py", folder, *arguments)
    assert result.returncode == 2
    assert complaint in result.stderr


def test_tars_of_pictures_and_captions_point_at_the_converter(tmp_path, capsys):
    write_tar(tmp_path / "0.tar", pair(1))
    assert main([str(tmp_path)]) == 1
    assert f"`owl data convert captions --input {tmp_path}" in capsys.readouterr().err


def test_a_disk_that_cannot_be_written_is_one_line(folder, monkeypatch, capsys):
    def fail(*arguments, **settings):
        raise OSError(30, "Read-only file system", "a.tar.idx")

    monkeypatch.setattr("owl.curate.prepare.prepare_folder", fail)
    assert main([str(folder)]) == 2
    printed = capsys.readouterr().err.splitlines()
    assert printed[0] == "prepare: [Errno 30] Read-only file system: 'a.tar.idx'"
    assert len(printed) == 2
