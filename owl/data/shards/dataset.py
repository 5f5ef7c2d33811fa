# SPDX-License-Identifier: Apache-2.0
"""Samples into shards, and out of them with one pread each.

A shard that has changed since it was indexed is refused: E109 when its folder is opened, E110 when
a sample is read.
"""

import hashlib
import json
import zlib
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from owl.data.samples import RawSample
from owl.data.shards import tar
from owl.data.shards.checksum import crc32
from owl.data.shards.document import parse_document
from owl.data.shards.index import (
    INDEX_SUFFIX,
    LITERAL_ERROR,
    MemberRow,
    ShardIndex,
    ShardRecord,
    check_unchanged,
    prepare_hint,
    read_records,
)
from owl.data.shards.retry import READ_ATTEMPTS, Retry
from owl.data.shards.rules import validate
from owl.data.shards.schema import Json
from owl.data.shards.storage import LocalFolder, Storage, open_storage
from owl.errors import DataError

ADLER_PRIME = 65521
"""The low half of an Adler-32 is 1 and the sum of the bytes, modulo this; sum() is far slower."""
MAX_LOADED_INDEXES = 512
"""Indexes kept in memory at a time: of a very large source only some shards are in use."""


class ShardWriter:
    """Writes checked samples into a USTAR tar, the same bytes for the same samples.

    Args:
        path: the tar, complete or not there at all.
        keep_literals: also take text that contains the template's markup (E206). It is read only
            under data.special_literals=escape.
    """

    def __init__(self, path: Path, *, keep_literals: bool = False) -> None:
        self.path = path
        self._allowed_codes = {LITERAL_ERROR} if keep_literals else set()
        self._keys: set[str] = set()
        self._tar = tar.TarWriter(path)

    def write(self, key: str, document: Json, files: Mapping[str, bytes]) -> None:
        """Append one sample: its json, then its media files in the order the document names them.

        Args:
            key: unique in the shard; letters, digits, _ / -.
            document: owl3-sample/1.
            files: media file name -> bytes.

        Raises:
            DataError: the first rule that key or document break.
        """
        shard = self.path.name
        if key.casefold() in self._keys:
            raise DataError("E106", "the key is already in the shard.", shard=shard, key=key)
        typed, problems = validate(document, files.keys())
        for problem in problems:
            if problem.code not in self._allowed_codes:
                raise DataError(problem.code, problem.message, shard=shard, key=key)
        for file in ("json", *files):
            tar.check_name(key, file, shard=shard)
        self._keys.add(key.casefold())
        self._tar.write(f"{key}.json", _json_bytes(document, shard=shard, key=key))
        assert typed is not None, "a document of the wrong shape has a problem that is not allowed"
        for file in typed.files:
            self._tar.write(f"{key}.{file}", files[file])

    def __enter__(self) -> Self:
        self._tar.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tar.__exit__(kind, error, trace)


def _json_bytes(document: Json, *, shard: str, key: str) -> bytes:
    try:
        return json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:  # in meta, for example: the text itself has been checked
        raise DataError(
            "E208", f"the json holds an unpaired surrogate: {error}.", shard=shard, key=key
        ) from error


class Dataset:
    """The samples of a prepared folder, by number.

    Files are opened by the process that reads them: a loader worker never shares a file position.

    Args:
        folder: that holds the shards.
        records: lines of dataset.json for the shards to use.
        retry: how often a failing read is tried.
    """

    def __init__(
        self,
        folder: Path | Storage,
        records: Sequence[ShardRecord],
        *,
        retry: Retry | None = None,
    ) -> None:
        self.storage = LocalFolder(folder) if isinstance(folder, Path) else folder
        self.records = list(records)
        ends = np.cumsum([record.samples for record in self.records], dtype=np.int64)
        self.starts = [0, *ends.tolist()]
        self.listed = frozenset(record.file for record in self.records)
        """Shards of dataset.json, those left out included."""
        self._retry = retry or Retry()
        self._indexes: OrderedDict[int, ShardIndex] = OrderedDict()

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        without_shards: Collection[str] = (),
        read_attempts: int = READ_ATTEMPTS,
    ) -> Self:
        """Open a folder, or a URL that fsspec reads, that prepare.py has indexed.

        Args:
            folder: that holds the shards.
            without_shards: file names of shards to leave out; they are not looked at.
            read_attempts: times that a failing read is tried.

        Raises:
            DataError: E203 no usable dataset.json, E109 a shard is not the one that was indexed.
            OSError: a read failed again and again.
        """
        storage, retry = open_storage(folder), Retry(read_attempts)
        listed = read_records(storage, retry)
        records = [record for record in listed if record.file not in without_shards]
        for record in records:
            retry.call(partial(check_unchanged, storage, record), storage, record.file)
        dataset = cls(storage, records, retry=retry)
        dataset.listed = frozenset(record.file for record in listed)
        return dataset

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def retries(self) -> int:
        """Reads that this process had to repeat."""
        return self._retry.count

    @property
    def folder(self) -> Path:
        """The local folder. Raises DataError E203 for one behind a URL."""
        if isinstance(self.storage, LocalFolder):
            return self.storage.path
        raise DataError(
            "E203",
            f"{self.storage.location} is not a local folder. Copy it to a disk, and name that.",
        )

    @property
    def fingerprint(self) -> str:
        """Changes when any sample does, but not when the folder is copied elsewhere."""
        names = "".join(f"{record.file} {record.index_hash}\n" for record in self.records)
        return hashlib.blake2b(names.encode(), digest_size=8).hexdigest()

    @property
    def errors(self) -> Counter[str]:
        """Samples that prepare.py found invalid, by code."""
        total: Counter[str] = Counter()
        for record in self.records:
            total.update(record.errors)
        return total

    def locate(self, sample: int) -> tuple[int, int]:
        """Shard number, and sample number within the shard."""
        shard = bisect_right(self.starts, sample) - 1
        return shard, sample - self.starts[shard]

    def index(self, shard: int) -> ShardIndex:
        """Index of one shard, loaded and compared with dataset.json on first use."""
        index = self._indexes.get(shard)
        if index is None:
            if len(self._indexes) >= MAX_LOADED_INDEXES:
                self._indexes.popitem(last=False)
            index = self._indexes[shard] = self._load_index(self.records[shard])
        return index

    def read_file(self, name: str) -> bytes | None:
        """Read a file beside the shards; None when there is none. Raises OSError, like read."""
        return self._retry.read_file(self.storage, name)

    def _load_index(self, record: ShardRecord) -> ShardIndex:
        name = record.file + INDEX_SUFFIX
        content = self.read_file(name) or b""
        loaded = ShardIndex.parse(content, f"{self.storage.location}/{name}")
        if loaded.content_hash.hex() != record.index_hash:
            raise DataError(
                "E109",
                f"{name} is not the index that dataset.json was written with. "
                f"{prepare_hint(self.storage.location)}",
                shard=record.file,
            )
        return loaded

    def error(self, sample: int) -> str | None:
        """Code for which prepare.py marked a sample invalid; None for a valid one."""
        shard, local = self.locate(sample)
        number = int(self.index(shard).samples["error"][local])
        return f"E{number}" if number else None

    def key(self, sample: int) -> str:
        """Key of a sample, from its first header."""
        shard, local = self.locate(sample)
        offset, _, _, members = self.index(shard).place(local)
        data = self._read_checked(shard, offset, members[0][0], [])
        return _first_key(data, self.records[shard].file)

    def read(self, sample: int) -> RawSample:
        """Read one sample with a single pread.

        Raises:
            DataError: E110 its bytes are not those that were indexed.
            OSError: the read failed again and again.
        """
        shard, local = self.locate(sample)
        offset, length, error, members = self.index(shard).place(local)
        data = self._read_checked(shard, offset, length, members)
        if not error:
            return self._parse(shard, data, members, with_files=True)
        # Its files need not be those that the document names.
        name = self.records[shard].file
        stored = tar.split_members(data, shard=name)
        return RawSample(
            key=_first_key(data, name),
            shard=name,
            document=parse_document(_member(data, members[0])),
            files={member.file: member.read(data) for member in stored if member.file != "json"},
        )

    def read_members(self, sample: int) -> list[memoryview]:
        """Read the bytes of each file of a sample, the json first; no checksum is compared.

        Raises:
            OSError: the read failed again and again.
        """
        shard, local = self.locate(sample)
        offset, length, _, members = self.index(shard).place(local)
        view = memoryview(self._read_checked(shard, offset, length, ()))
        return [view[start : start + size] for start, size, _, _, _ in members]

    def read_text(self, sample: int) -> RawSample:
        """Read a sample without its media files, with the sizes of its pictures.

        It raises what `read` raises.
        """
        shard, local = self.locate(sample)
        start, _, _, members = self.index(shard).place(local)
        offset, size, *_ = members[0]
        data = self._read_checked(shard, start, offset + size, members[:1])
        return self._parse(shard, data, members, with_files=False)

    def _parse(
        self, shard: int, data: bytes, members: Sequence[MemberRow], *, with_files: bool
    ) -> RawSample:
        name, document = self.records[shard].file, parse_document(_member(data, members[0]))
        # The index lists a sample's media in the order in which its document names them.
        rows = dict(zip(document.files, members[1:], strict=True))
        return RawSample(
            key=_first_key(data, name),
            shard=name,
            document=document,
            files=MediaFiles(data, rows) if with_files else {},
            sizes={file: (width, height) for file, (*_, width, height) in rows.items()},
        )

    def _read_checked(
        self, shard: int, offset: int, length: int, members: Sequence[MemberRow]
    ) -> bytes:
        """Bytes from the start of a sample, with the checksums of some of its members compared.

        Damage on the way (a bad cable, a flaky file server) goes away on a second read; a shard
        that was overwritten does not.
        """
        file, attempt = self.records[shard].file, 1
        while True:
            failure: Exception
            try:
                data = self.storage.pread(file, length, offset)
                if len(data) != length:
                    raise OSError(f"got {len(data)} bytes")
                if _is_intact(data, members):
                    return data
                failure = self._changed(shard, offset)
            except OSError as error:
                failure = self._unread(shard, offset, length, error)
            if attempt >= self._retry.attempts:
                raise failure
            self._retry.pause(attempt, self.storage, file)
            attempt += 1

    def _unread(self, shard: int, offset: int, length: int, error: OSError) -> OSError:
        file = self.records[shard].file
        return OSError(
            error.errno,
            f"shard {file}: {length} bytes at {offset} of {self.storage.location} could not be "
            f"read in {self._retry.attempts} attempts: {error}. Check the file system, then "
            f"resume; or leave the shard out with a line {file} in data.quarantine",
        )

    def _changed(self, shard: int, offset: int) -> DataError:
        return DataError(
            "E110",
            f"the bytes at {offset} differ from those that were indexed. If the shard was "
            f"rewritten on purpose: {prepare_hint(self.storage.location)}",
            shard=self.records[shard].file,
        )


class MediaFiles(Mapping[str, bytes]):
    """The media files of a sample, each cut out of its bytes when it is asked for.

    Cut out all at once, the pictures of a large sample would be in memory twice, and half the time
    of reading it would go into fresh pages for them.

    Args:
        data: the bytes of the sample in the shard.
        rows: file name -> where it is stored.
    """

    def __init__(self, data: bytes, rows: Mapping[str, MemberRow]) -> None:
        self._data = data
        self._rows = rows

    def __getitem__(self, file: str) -> bytes:
        return _member(self._data, self._rows[file])

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def _member(data: bytes, row: MemberRow) -> bytes:
    offset, size, *_ = row
    return data[offset : offset + size]


def _is_intact(data: bytes, rows: Sequence[MemberRow]) -> bool:
    if not rows:
        return True
    view = memoryview(data)
    return all(crc32(view[offset : offset + size]) == crc for offset, size, crc, _, _ in rows)


def _first_key(data: bytes, shard: str) -> str:
    """Key of a sample, from the header that its bytes begin with."""
    header = data[: tar.BLOCK]
    is_plain = header[156:157] == b"0" and not header[345]  # a file, its name in one piece
    # Python's own parser takes longer than all the rest of reading a small sample.
    if is_plain and _header_sum(header) == int(header[148:154], 8) % ADLER_PRIME:
        name = header[:100].partition(b"\0")[0].decode("ascii")
        return name.partition(".")[0]
    return tar.read_member(memoryview(data), 0, shard=shard).key


def _header_sum(header: bytes) -> int:
    """A tar header's checksum, modulo ADLER_PRIME: that many bytes add up to twice it at most."""
    blanked = header[:148] + b" " * 8 + header[156:]
    return ((zlib.adler32(blanked) & 0xFFFF) - 1) % ADLER_PRIME
