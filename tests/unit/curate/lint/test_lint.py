# SPDX-License-Identifier: Apache-2.0
"""Whatever happens to a shard, each of its samples is accounted for."""

import os
import tarfile

import pytest

from owl.curate.lint.lint import Checks, lint_folder
from owl.curate.lint.report import FolderReport
from owl.curate.prepare import prepare_folder
from owl.data.shards.dataset import Dataset
from owl.data.shards.index import index_path
from owl.errors import DataError
from tests.unit.data.shard_factory import chat, files_of, picture, write_chats, write_shard

SAMPLES = 10


@pytest.fixture(params=["prepared", "bare"])
def folder(tmp_path, request):
    """Ten samples in one shard, with 0 to 2 pictures each; with and without an index."""
    write_chats(tmp_path, shards=1, samples=SAMPLES)
    if request.param == "bare":
        (tmp_path / "dataset.json").unlink()
        index_path(tmp_path / "s-000.tar").unlink()
    return tmp_path


def lint(folder) -> FolderReport:
    report = lint_folder(folder, Checks())
    for shard in report.shards:
        assert shard.good + len(shard.bad) == shard.samples
    return report


def headers(path):
    with tarfile.open(path) as tar:
        return [(member.name, member.offset) for member in tar.getmembers()]


def damage(path, offset, data):
    """Overwrite bytes; size and time stamp stay."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_nothing_is_found_in_a_good_folder(folder):
    report = lint(folder)
    assert report.is_clean
    assert report.samples == report.good == SAMPLES


@pytest.mark.parametrize("place", [0, 3, 124, 148, 156, 257], ids="byte {}".format)
def test_a_flipped_byte_in_any_header_costs_one_sample_and_names_it(folder, place):
    path = folder / "s-000.tar"
    content = path.read_bytes()
    for name, offset in headers(path):
        damage(path, offset + place, bytes([content[offset + place] ^ 1]))
        report = lint(folder)
        assert (report.samples, report.good) == (SAMPLES, SAMPLES - 1), name
        (bad,) = report.shards[0].bad
        # Of a sample without pictures nothing but its byte is left when its only header is hit.
        assert bad.key == name.partition(".")[0] or (bad.key is None and bad.offset == offset)
        assert f"no tar header at byte {offset}" in bad.problems[0].message
        assert report.shards[0].is_broken
        damage(path, 0, content)


PAX_PLACES = [0, 124, 148, 156, 512, 1024, 1024 + 3, 1024 + 124, 1024 + 148, 1024 + 257]
"""In the header of the block, in the block, and in the header of the file behind it."""


@pytest.mark.parametrize("place", PAX_PLACES, ids="byte {}".format)
def test_damage_to_the_extra_headers_of_other_writers_costs_one_sample(folder, place):
    # webdataset writes a PAX block before every member, because of its fractional time stamps.
    path = folder / "s-000.tar"
    is_prepared = index_path(path).is_file()
    plain = path.rename(folder / "plain")
    with (
        tarfile.open(plain) as source,
        tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as target,
    ):
        for member in source.getmembers():
            member.mtime = 1.5
            target.addfile(member, source.extractfile(member))
    if is_prepared:
        assert prepare_folder(folder) == []
    content = path.read_bytes()
    for name, offset in headers(path):
        damage(path, offset + place, bytes([content[offset + place] ^ 1]))
        report = lint(folder)
        assert (report.samples, report.good) == (SAMPLES, SAMPLES - 1), name
        assert report.shards[0].bad[0].key in (name.partition(".")[0], None), name
        damage(path, 0, content)


def test_a_changed_byte_that_no_file_holds_is_named_as_training_will(tmp_path):
    path = write_chats(tmp_path, shards=1) / "s-000.tar"
    *_, (_, last) = headers(path)
    with tarfile.open(path) as tar:
        end = last + 512 + tar.getmembers()[-1].size
    damage(path, end, b"x")
    os.utime(path)
    with pytest.raises(DataError, match=r"E109: shard s-000\.tar: its content changed after"):
        Dataset.open(tmp_path)
    report = lint(tmp_path)
    assert report.good == SAMPLES
    (problem,) = report.shards[0].problems
    assert (problem.code, problem.message[:38]) == (
        "E109",
        "its content changed after it was index",
    )
    assert not report.shards[0].is_broken  # prepare.py takes it again


def test_a_truncated_shard_names_what_is_cut_and_what_is_lost(folder):
    path = folder / "s-000.tar"
    is_prepared = index_path(path).is_file()
    content = path.read_bytes()
    for length in range(0, len(content.rstrip(b"\0")), 700):
        path.write_bytes(content[:length])
        report = lint(folder)
        assert "E102" in report.codes(), length
        if is_prepared:
            assert report.samples == SAMPLES, length
        assert all(name.startswith("s0") for s in report.shards[0].bad if (name := s.key))


def test_a_corrupt_picture_is_found_in_its_sample_and_nowhere_else(folder):
    path = folder / "s-000.tar"
    name, offset = next((n, o) for n, o in headers(path) if n.endswith("m0001.jpg"))
    damage(path, offset + 512, b"\0" * 300)
    report = lint(folder)
    (bad,) = report.shards[0].bad
    assert bad.key == name.partition(".")[0]
    codes = [problem.code for problem in bad.problems]
    assert codes[0] in ("E307", "E308")
    assert "'m0001.jpg'" in bad.problems[0].message
    assert codes[1:] == (["E110"] if index_path(path).is_file() else [])


def test_a_picture_that_ends_in_the_middle_is_found_only_when_pixels_are_read(tmp_path):
    cut = picture(64, 64)[:-200]
    write_shard(tmp_path / "s.tar", [("a", chat(pictures=1), {"m0000.jpg": cut})])
    assert prepare_folder(tmp_path) == []
    assert lint_folder(tmp_path, Checks(pixels=False)).is_clean
    assert lint(tmp_path).codes() == {"E308": 1}


def test_a_region_of_zeros_hides_no_sample(folder):
    path = folder / "s-000.tar"
    places = headers(path)
    first, last = places[4][1], places[9][1]
    damage(path, first, b"\0" * (last - first))
    report = lint(folder)
    assert {"E103"} <= report.codes().keys()
    assert {bad.key for bad in report.shards[0].bad} >= {"s0007", "s0008", "s0009"}
    if index_path(path).is_file():
        assert report.samples == SAMPLES


def test_two_tars_one_behind_the_other_are_both_counted(folder):
    path = folder / "s-000.tar"
    content = path.read_bytes()
    path.write_bytes(content + content)
    report = lint(folder)
    assert (report.samples, report.good) == (2 * SAMPLES, SAMPLES)
    assert all(
        {"E103", "E106"} <= {problem.code for problem in bad.problems}
        for bad in report.shards[0].bad
    )


def test_every_fault_of_a_sample_is_named_not_just_the_first(tmp_path):
    bad = chat(pictures=2, w=999)
    files = files_of(bad) | {"m0001.jpg": b"no picture"}
    write_shard(tmp_path / "s.tar", [("a", bad, files)])
    (sample,) = lint(tmp_path).shards[0].bad
    assert [problem.code for problem in sample.problems] == ["E307", "E306"]


def test_an_index_that_was_rewritten_behind_dataset_json_is_named(tmp_path):
    write_chats(tmp_path, shards=1)
    index = index_path(tmp_path / "s-000.tar")
    content = bytearray(index.read_bytes())
    content[40] ^= 1
    index.write_bytes(content)
    report = lint(tmp_path)
    assert report.codes() == {"E109": 1}
    index.write_bytes(content[:60])
    assert "cannot be read" in lint(tmp_path).shards[0].problems[0].message
    index.unlink()
    assert "index is missing" in lint(tmp_path).shards[0].problems[0].message


def test_a_missing_shard_counts_its_samples_as_bad(tmp_path):
    write_chats(tmp_path, shards=2)
    (tmp_path / "s-001.tar").unlink()
    report = lint(tmp_path)
    assert (report.samples, report.good) == (20, 10)
    assert report.shards[1].problems[0].code == "E109"


def test_a_shard_that_dataset_json_does_not_know_is_named(tmp_path):
    write_chats(tmp_path, shards=1)
    write_shard(tmp_path / "new.tar", [("a", chat(), {})])
    (problem,) = lint(tmp_path).problems
    assert problem.code == "E109"
    assert "new.tar is not in dataset.json" in problem.message


def test_a_replaced_shard_is_not_taken_for_a_damaged_one(tmp_path):
    write_chats(tmp_path, shards=1)
    document = chat("something else entirely", pictures=1)
    write_shard(tmp_path / "s-000.tar", [(f"k{i}", document, files_of(document)) for i in range(3)])
    report = lint(tmp_path)
    assert (report.samples, report.good) == (3, 3)
    assert (
        "belongs to another shard, or this one was rewritten"
        in report.shards[0].problems[0].message
    )


def test_a_valid_tar_without_samples_is_clean(tmp_path):
    (tmp_path / "void.tar").write_bytes(bytes(10240))
    assert prepare_folder(tmp_path) == []
    assert lint(tmp_path).is_clean
