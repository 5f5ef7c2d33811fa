# SPDX-License-Identifier: Apache-2.0
import io
import os
import shutil
import subprocess
import sys
import tarfile

import pytest

from owl.curate.prepare import prepare_folder
from owl.data.shards import retry
from owl.data.shards.dataset import Dataset, ShardWriter
from owl.data.shards.document import Document, parse_document
from owl.data.shards.index import index_path, index_shard, write_dataset
from owl.errors import DataError
from tests.unit.data.shard_factory import chat, files_of, picture, write_chats, write_shard


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(retry, "RETRY_SECONDS", 0.0)


def triples(count=3):
    documents = [chat(f"question {i}", pictures=i % 3) for i in range(count)]
    return [(f"a/b-{i}", doc, files_of(doc, width=20 + i)) for i, doc in enumerate(documents)]


def raw_tar(path, *members):
    """Write any members at all, with Python's own writer."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def change_byte(path, offset):
    """Flip one byte and keep size and time stamps."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_samples_come_back_as_they_were_written(tmp_path):
    written = triples()
    write_shard(tmp_path / "s.tar", written)
    assert prepare_folder(tmp_path) == []
    dataset = Dataset.open(tmp_path)
    assert len(dataset) == 3
    for number, (key, document, files) in enumerate(written):
        sample = dataset.read(number)
        assert (sample.key, sample.shard) == (key, "s.tar")
        assert sample.document == Document.from_json(document)
        assert sample.files == files


def test_sizes_of_pictures_are_known_without_reading_them(tmp_path):
    write_shard(tmp_path / "s.tar", triples())
    prepare_folder(tmp_path)
    dataset = Dataset.open(tmp_path)
    assert (
        dataset.read_text(2).sizes
        == dataset.read(2).sizes
        == {"m0000.jpg": (22, 12), "m0001.jpg": (22, 12)}
    )


def test_webdataset_reads_our_shards(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    written = triples()
    path = write_shard(tmp_path / "s.tar", written)
    samples = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [key for key, _, _ in written]
    assert samples[2]["m0001.jpg"] == written[2][2]["m0001.jpg"]


def test_energon_prepares_a_folder_of_links_to_our_shards_and_reads_them(tmp_path):
    pytest.importorskip("megatron.energon", exc_type=ImportError)
    from megatron.energon.cache.file_store import WebdatasetFileStore
    from megatron.energon.epathlib import EPath

    ours, theirs = tmp_path / "shards", tmp_path / "energon"
    path = write_shard(ours / "s.tar", triples())
    prepare_folder(ours)
    theirs.mkdir()
    (theirs / "s.tar").symlink_to(path)  # its index has the name of ours
    index = index_path(path).read_bytes()
    energon = [sys.executable, "-c", "from megatron.energon.cli.main import main; main()"]
    options = ["--non-interactive", "--split-ratio", "1,0,0", "--sample-type", "CrudeWebdataset"]
    subprocess.run([*energon, "prepare", *options, str(theirs)], check=True, timeout=120)
    assert index_path(path).read_bytes() == index
    store, samples = WebdatasetFileStore(EPath(str(theirs))), Dataset.open(ours)
    for number in range(len(samples)):
        raw = samples.read(number)
        for file, content in raw.files.items():
            assert store[f"{raw.key}.{file}"][0] == content


def test_we_read_shards_that_webdataset_wrote(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    key, document, files = triples()[2]
    with webdataset.TarWriter(str(tmp_path / "s.tar")) as writer:
        writer.write({"__key__": key, "json": document, **files})
    assert prepare_folder(tmp_path) == []
    assert Dataset.open(tmp_path).read(0).files == files


def test_the_same_samples_give_the_same_bytes(tmp_path):
    first = write_shard(tmp_path / "a.tar", triples())
    second = write_shard(tmp_path / "b.tar", triples())
    assert first.read_bytes() == second.read_bytes()


def test_a_writer_that_fails_leaves_no_shard(tmp_path):
    with pytest.raises(DataError, match=r"E302.*m0000\.jpg"):
        write_shard(tmp_path / "s.tar", [("a", chat(pictures=1), {})])
    assert list(tmp_path.iterdir()) == []


def test_keys_that_webdataset_would_split_or_merge_are_refused(tmp_path):
    with ShardWriter(tmp_path / "s.tar") as writer:
        writer.write("good", chat(), {})
        with pytest.raises(DataError, match="E105"):
            writer.write("a.b", chat(), {})
        with pytest.raises(DataError, match="E106"):
            writer.write("Good", chat(), {})


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ([("a.b.JSON", b"{}")], "E105"),
        ([("a.json", b"{}"), ("a.json", b"{}")], "E106"),
        ([("a.json", b"{}"), ("b.json", b"{}"), ("a.m0.jpg", b"")], "E107"),
        ([("a.m0.jpg", b"")], "E108"),
    ],
)
def test_tars_that_webdataset_would_misread_are_refused(tmp_path, members, code):
    with pytest.raises(DataError, match=code):
        index_shard(raw_tar(tmp_path / "s.tar", *members))


def test_a_corrupt_header_in_the_middle_is_found(tmp_path):
    path = write_shard(tmp_path / "s.tar", triples())
    with tarfile.open(path) as tar:
        middle = tar.getmembers()[2].offset
    change_byte(path, middle + 3)
    with pytest.raises(DataError, match=f"E101.*byte {middle}"):
        index_shard(path)


def test_a_truncated_shard_is_found(tmp_path):
    path = write_shard(tmp_path / "s.tar", triples())
    content = path.read_bytes()
    for length in (0, 700, 1024):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match="E102"):
            index_shard(path)


def test_data_after_the_end_and_things_that_are_no_files_are_refused(tmp_path):
    path = write_shard(tmp_path / "s.tar", triples())
    path.write_bytes(path.read_bytes() + path.read_bytes())
    with pytest.raises(DataError, match="E103"):
        index_shard(path)
    with tarfile.open(tmp_path / "d.tar", "w") as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    with pytest.raises(DataError, match="E104"):
        index_shard(tmp_path / "d.tar")


def test_a_sample_that_breaks_a_rule_is_named_as_invalid_and_the_rest_is_kept(tmp_path):
    (tmp_path / "data").mkdir()
    good, bad = triples(2)
    bad[1]["media"][0]["w"] = 999
    write_shard(tmp_path / "data" / "s.tar", [good, bad])
    (line,) = prepare_folder(tmp_path / "data")
    assert line.startswith("E306: shard s.tar: sample 'a/b-1'")
    dataset = Dataset.open(tmp_path / "data")
    assert [dataset.error(0), dataset.error(1)] == [None, "E306"]
    assert dataset.errors == {"E306": 1}


def test_a_shard_of_another_size_is_refused(tmp_path):
    write_chats(tmp_path, shards=1)
    with (tmp_path / "s-000.tar").open("ab") as file:
        file.write(b"\0" * 512)
    with pytest.raises(DataError, match=r"E109: shard s-000\.tar: it had \d+ bytes"):
        Dataset.open(tmp_path)


def test_a_shard_with_other_content_of_the_same_size_is_refused(tmp_path):
    write_chats(tmp_path, shards=1)
    path = tmp_path / "s-000.tar"
    change_byte(path, 600)
    os.utime(path)
    with pytest.raises(
        DataError, match=r"E109: shard s-000\.tar: its content changed.*owl data prepare"
    ):
        Dataset.open(tmp_path)


def test_content_changed_behind_an_unchanged_time_stamp_is_refused_when_read(tmp_path):
    write_chats(tmp_path, shards=1)
    change_byte(tmp_path / "s-000.tar", 600)
    dataset = Dataset.open(tmp_path)
    with pytest.raises(DataError, match=r"E110: shard s-000\.tar"):
        dataset.read(0)
    assert dataset.read(1).key == "s0001"


def test_a_copy_with_another_time_stamp_is_accepted_with_a_warning(tmp_path, caplog):
    write_chats(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there", copy_function=shutil.copyfile)
    original, copy = Dataset.open(tmp_path / "here"), Dataset.open(tmp_path / "there")
    assert copy.fingerprint == original.fingerprint
    assert "comparing its content" in caplog.text


def test_an_index_of_another_shard_is_refused(tmp_path):
    write_chats(tmp_path)
    shutil.copy(index_path(tmp_path / "s-001.tar"), index_path(tmp_path / "s-000.tar"))
    with pytest.raises(DataError, match="E109"):
        Dataset.open(tmp_path).read(0)


def test_a_missing_shard_is_refused_by_name(tmp_path):
    write_chats(tmp_path)
    (tmp_path / "s-001.tar").unlink()
    with pytest.raises(DataError, match=r"E109: shard s-001\.tar.*missing"):
        Dataset.open(tmp_path)


def test_a_failing_disk_is_retried_and_then_named(tmp_path, monkeypatch):
    write_chats(tmp_path)
    dataset = Dataset.open(tmp_path)
    answers = [OSError(5, "Input/output error")] * 2
    pread = os.pread

    def flaky(*arguments):
        if answers:
            raise answers.pop()
        return pread(*arguments)

    monkeypatch.setattr(os, "pread", flaky)
    assert dataset.read(12).key == "s0012"
    answers += [OSError(5, "Input/output error")] * 3
    with pytest.raises(OSError, match=r"shard s-001\.tar: \d+ bytes at \d+"):
        dataset.read(12)


def test_preparing_again_reads_only_what_changed(tmp_path):
    write_chats(tmp_path, shards=2)
    index_path(tmp_path / "s-000.tar").touch()
    before = [index_path(tmp_path / f"s-00{i}.tar").stat().st_mtime_ns for i in range(2)]
    write_shard(tmp_path / "s-001.tar", triples(4))
    assert prepare_folder(tmp_path) == []
    after = [index_path(tmp_path / f"s-00{i}.tar").stat().st_mtime_ns for i in range(2)]
    assert before[0] == after[0]
    assert before[1] != after[1]
    assert len(Dataset.open(tmp_path)) == 14


def test_a_broken_shard_is_left_out_and_reported(tmp_path):
    write_chats(tmp_path, shards=1)
    (tmp_path / "t.tar").write_bytes(b"not a tar at all" * 100)
    (line,) = prepare_folder(tmp_path, workers=2)
    assert line.startswith("E101: shard t.tar")
    assert len(Dataset.open(tmp_path)) == 10


def test_a_png_under_a_jpg_name_is_accepted(tmp_path):
    files = {"m0000.jpg": picture(codec="PNG")}
    write_shard(tmp_path / "s.tar", [("a", chat(pictures=1), files)])
    assert prepare_folder(tmp_path) == []


def test_an_empty_dataset_can_be_written_and_opened(tmp_path):
    write_dataset(tmp_path, [])
    assert len(Dataset.open(tmp_path)) == 0


def test_members_are_the_bytes_of_every_file_the_json_first(tmp_path):
    dataset = Dataset.open(write_chats(tmp_path, shards=1, samples=4))
    sample = dataset.read(2)
    document, *pictures = dataset.read_members(2)
    assert parse_document(bytes(document)) == sample.document
    assert [bytes(picture) for picture in pictures] == list(sample.files.values())
    assert dataset.retries == 0
