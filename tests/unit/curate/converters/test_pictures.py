# SPDX-License-Identifier: Apache-2.0
import os

import pytest

from owl.curate.converters.pictures import MAX_FILE_BYTES, SourceFolder, natural_order
from owl.errors import DataError
from tests.unit.curate.converters.converting import convert_lines, write_pictures


@pytest.fixture
def folder(tmp_path):
    write_pictures(tmp_path, "secret.jpg")
    return SourceFolder(write_pictures(tmp_path / "images", "a.jpg", "sub/b.jpg"))


@pytest.mark.parametrize("name", ["a.jpg", "./a.jpg", "sub/../a.jpg", "sub/b.jpg"])
def test_files_inside_of_the_folder_are_read(folder, name):
    assert folder.read(name).startswith(b"\xff\xd8")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../secret.jpg", "leads out of"),
        ("sub/../../secret.jpg", "leads out of"),
        ("/etc/passwd", "leads out of"),
        ("link.jpg", "leads out of"),
        ("linked/secret.jpg", "leads out of"),
        ("file:///etc/passwd", "is a url"),
        ("gone.jpg", "is not a file"),
        ("a.jpg/b.jpg", "is not a file"),
        ("sub", "is not a file"),
        ("", "is not a file"),
        ("x" * 5000, "is not a file"),
        ("loop.jpg", "is not a file"),
        ("a\0.jpg", "is not a file name"),
        ("pipe.jpg", "is not a plain file"),
    ],
)
def test_no_name_leads_out_of_the_folder_or_hangs(folder, name, words):
    (folder.root / "link.jpg").symlink_to(folder.root.parent / "secret.jpg")
    (folder.root / "linked").symlink_to(folder.root.parent)
    (folder.root / "loop.jpg").symlink_to(folder.root / "loop.jpg")
    os.mkfifo(folder.root / "pipe.jpg")
    with pytest.raises(DataError, match="E302") as caught:
        folder.read(name)
    assert words in str(caught.value)


def test_a_link_that_stays_inside_is_followed(folder):
    (folder.root / "link.jpg").symlink_to(folder.root / "a.jpg")
    assert folder.read("link.jpg") == folder.read("a.jpg")


def test_links_that_lead_out_are_followed_only_when_they_are_trusted(folder):
    (folder.root / "disk").symlink_to(folder.root.parent)
    with pytest.raises(DataError, match="--follow-links"):
        folder.read("disk/secret.jpg")
    trusting = SourceFolder(folder.root, follow_links=True)
    assert trusting.read("disk/secret.jpg").startswith(b"\xff\xd8")
    for name in ("../secret.jpg", "disk/../../secret.jpg", "/etc/passwd"):
        with pytest.raises(DataError, match="leads out of"):
            trusting.read(name)


def test_a_snapshot_of_the_hugging_face_cache_reads_its_blobs_and_nothing_else(tmp_path):
    write_pictures(tmp_path / "hub", "blobs/1", "refs/2")
    snapshot = tmp_path / "hub/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "a.jpg").symlink_to("../../blobs/1")
    (snapshot / "b.jpg").symlink_to("../../refs/2")
    folder = SourceFolder(snapshot)
    assert folder.read("a.jpg").startswith(b"\xff\xd8")
    with pytest.raises(DataError, match="leads out of"):
        folder.read("b.jpg")


def test_a_huge_file_is_refused_before_it_is_read(folder):
    with (folder.root / "huge.jpg").open("wb") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(DataError, match="E309"):
        folder.read("huge.jpg")


def test_a_disk_that_fails_is_no_reason_to_reject(folder, monkeypatch):
    def fail(*arguments):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", fail)
        with pytest.raises(OSError, match="Input/output error"):
            folder.read("a.jpg")


def test_numbers_in_names_are_ordered_as_numbers():
    names = ["f10.jpg", "f9.jpg", "cover.jpg", "f009.jpg", "1.jpg"]
    in_order = ["1.jpg", "cover.jpg", "f009.jpg", "f9.jpg", "f10.jpg"]
    assert sorted(names, key=natural_order) in (in_order, ["cover.jpg", *in_order[2:], "1.jpg"])


def test_a_sneaky_name_in_a_source_is_rejected(tmp_path):
    write_pictures(tmp_path, "secret.jpg")
    write_pictures(tmp_path / "images", "a.jpg")
    record = {"image": "../secret.jpg", "question": "?", "answer": "!"}
    assert convert_lines(tmp_path, "jsonl", record).reject["code"] == "E302"


def test_names_without_a_folder_for_them_are_rejected(tmp_path):
    record = {"image": "a.jpg", "question": "?", "answer": "!"}
    assert "--images was not given" in convert_lines(tmp_path, "jsonl", record).reject["message"]
