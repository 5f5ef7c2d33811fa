# SPDX-License-Identifier: Apache-2.0
import errno
import pickle
import re
import shutil
from itertools import islice

import pytest

from owl.data.problems import data_problems
from owl.data.shards import retry
from owl.data.shards.checksum import crc32
from owl.data.shards.dataset import Dataset
from owl.data.shards.index import read_records
from owl.data.shards.storage import LocalFolder, RemoteFolder, is_remote, open_storage
from owl.errors import DataError
from tests.unit.data.shard_factory import data_config, make_loader, write_chats

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def folder(tmp_path):
    return write_chats(tmp_path / "a")


@pytest.fixture
def remote(folder):
    """The same shards in fsspec's memory."""
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/owls", recursive=True)
    yield "memory://owls"
    memory.rm("/owls", recursive=True)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(retry, "RETRY_SECONDS", 0.0)


@pytest.mark.parametrize("text", ["s3://bucket/a", "memory://a", "simplecache::http://h/a"])
def test_urls_and_paths_are_told_apart(text, tmp_path):
    assert is_remote(text)
    assert isinstance(open_storage(text), RemoteFolder)
    assert isinstance(open_storage(tmp_path), LocalFolder)


def test_a_url_gives_the_samples_of_the_folder_it_was_copied_from(folder, remote):
    here, there = Dataset.open(folder), Dataset.open(remote)
    assert there.fingerprint == here.fingerprint
    assert [there.read(i) for i in range(20)] == [here.read(i) for i in range(20)]


@pytest.mark.parametrize("workers", [0, 1])
def test_training_batches_do_not_depend_on_where_shards_lie(tmp_path, folder, remote, workers):
    config = data_config(tmp_path, folder, num_workers=workers)
    here = list(islice(make_loader(config).steps(4), 4))
    config.sources["a"].path = remote
    assert list(data_problems(config)) == []
    there = list(islice(make_loader(config).steps(4, here[1].cursor), 2))
    assert [step.cursor for step in there] == [step.cursor for step in here[2:]]
    for one, other in zip(here[2:], there, strict=True):
        for mine, theirs in zip(one.microbatches, other.microbatches, strict=True):
            assert mine.keys == theirs.keys
            assert mine.pixel_values.equal(theirs.pixel_values)


def test_a_shard_of_another_size_behind_a_url_is_refused(remote):
    memory = fsspec.filesystem("memory")
    memory.pipe("/owls/s-000.tar", b"x" * 100)
    with pytest.raises(DataError, match=r"E109: shard s-000\.tar: it had \d+ bytes"):
        Dataset.open(remote)


def test_whatever_a_store_raises_is_retried_and_then_named(remote, monkeypatch):
    dataset = Dataset.open(remote, read_attempts=2)
    failures = [RuntimeError("throttled")]
    cat_file = fsspec.implementations.memory.MemoryFileSystem.cat_file

    def flaky(self, path, *arguments, **options):
        if path.endswith(".tar") and failures:
            raise failures.pop()
        return cat_file(self, path, *arguments, **options)

    monkeypatch.setattr(fsspec.implementations.memory.MemoryFileSystem, "cat_file", flaky)
    assert dataset.read(1).key == "s0001"
    assert dataset.retries == 1
    failures += [RuntimeError("throttled")] * 2
    with pytest.raises(OSError, match=r"shard s-000\.tar: \d+ bytes at \d+.*2 attempts.*throttled"):
        dataset.read(1)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("dataset.json", "read"),
        ("s-000.tar.idx", "read"),
        ("s-000.tar.tok.", "read"),
        ("s-000.tar", "facts"),
    ],
)
def test_a_disk_that_fails_once_does_not_end_the_run(tmp_path, folder, monkeypatch, name, method):
    config = data_config(tmp_path, folder)
    next(make_loader(config).steps(2))  # makes the counts
    failures, plain = [], getattr(LocalFolder, method)

    def flaky(self, file):
        if file.startswith(name) and failures:
            raise OSError(errno.EIO, failures.pop())
        return plain(self, file)

    monkeypatch.setattr(LocalFolder, method, flaky)
    failures += ["a hiccup"] * 2
    next(make_loader(config).steps(2))
    assert not failures
    failures += ["a dead disk"] * 9
    shard = re.escape(name.partition(".tar")[0])
    with pytest.raises((OSError, DataError), match=rf"{shard}.* of {folder} could .*3 att.*dead"):
        next(make_loader(config).steps(2))


def test_urls_that_cannot_be_read_are_problems_and_not_exceptions(tmp_path, remote):
    config = data_config(tmp_path, "nosuch://bucket/x", "memory://empty")
    first, second = data_problems(config)
    assert first.startswith("data.sources.a.path=nosuch://bucket/x: fsspec cannot open nosuch://")
    assert "data.sources.b.path=memory://empty holds no dataset.json" in second


def test_a_storage_travels_to_a_fresh_process_without_its_open_files(folder, remote):
    for location in (folder, remote):
        dataset = Dataset.open(location)
        dataset.read(0)
        again = pickle.loads(pickle.dumps(dataset))
        assert again.read(0) == dataset.read(0)


def test_only_so_many_files_are_open_at_a_time(tmp_path, monkeypatch):
    from owl.data.shards import storage

    monkeypatch.setattr(storage, "MAX_OPEN_FILES", 2)
    dataset = Dataset.open(write_chats(tmp_path / "many", shards=4, samples=2))
    assert [dataset.read(number).key for number in range(8)] == [f"s{n:04}" for n in range(8)]
    assert len(dataset.storage._descriptors) == 2


@pytest.mark.parametrize("name", ["../s-000.tar", "/etc/passwd", "a/b.tar", ".."])
def test_no_shard_name_leads_out_of_its_folder(tmp_path, folder, name):
    shutil.copytree(folder, tmp_path / "copy")
    description = tmp_path / "copy/dataset.json"
    description.write_text(description.read_text().replace("s-000.tar", name))
    with pytest.raises(DataError, match=r"E203.*not a plain file name"):
        read_records(tmp_path / "copy")


def test_the_fast_checksum_is_the_plain_one():
    import zlib

    for data in (b"", b"owl", bytes(range(256)) * 99):
        assert crc32(memoryview(data)) == zlib.crc32(data)


def test_a_folder_behind_a_url_has_no_path(remote):
    with pytest.raises(DataError, match=r"E203.*memory://owls is not a local folder"):
        _ = Dataset.open(remote).folder
