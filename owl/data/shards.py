# SPDX-License-Identifier: Apache-2.0
"""Samples into shards, and out of them with one pread each.

A shard that has changed since it was indexed is refused: E109 when its folder is opened, E110 when
a sample is read.
"""

import hashlib
import json
import os
import time
import zlib
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from owl.data import tar
from owl.data.index import (
    Rows,
    ShardIndex,
    ShardRecord,
    check_unchanged,
    index_path,
    listed_files,
    prepare_hint,
    read_records,
)
from owl.data.samples import RawSample
from owl.data.schema import Json, check_document, parse_document
from owl.errors import DataError

READ_ATTEMPTS = 3
RETRY_SECONDS = 0.5
MAX_OPEN_SHARDS = 64


class ShardWriter:
    """Writes checked samples into a USTAR tar, the same bytes for the same samples."""

    def __init__(self, path: Path) -> None:
        self.path = path
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
        check_document(document, files.keys(), shard=shard, key=key)
        for file in ("json", *files):
            tar.check_name(key, file, shard=shard)
        self._keys.add(key.casefold())
        self._tar.write(f"{key}.json", _json_bytes(document, shard=shard, key=key))
        for file in listed_files(document):
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
    except UnicodeEncodeError as error:  # in meta, say: the text itself has been checked
        raise DataError(
            "E208", f"the json holds an unpaired surrogate: {error}.", shard=shard, key=key
        ) from error


class Dataset:
    """The samples of a prepared folder, by number.

    Files are opened when first read, by the process that reads them, so that a loader worker never
    shares a file position or an index with its parent.
    """

    def __init__(self, folder: Path, records: Sequence[ShardRecord]) -> None:
        self.folder = folder
        self.records = list(records)
        ends = np.cumsum([record.samples for record in self.records], dtype=np.int64)
        self.starts = [0, *ends.tolist()]
        self._indexes: dict[int, ShardIndex] = {}
        self._files: OrderedDict[int, int] = OrderedDict()  # shard -> descriptor
        self._owner = os.getpid()

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open a folder that prepare.py has indexed.

        Raises:
            DataError: E203 no usable dataset.json, E109 a shard is not the one that was indexed.
        """
        folder = Path(folder)
        records = read_records(folder)
        for record in records:
            check_unchanged(folder / record.file, record)
        return cls(folder, records)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        # For workers that are started fresh: file descriptors do not travel.
        return self.__dict__ | {"_files": OrderedDict(), "_owner": -1}

    @property
    def fingerprint(self) -> str:
        """Changes when any sample does, but not when the folder is copied elsewhere."""
        names = "".join(f"{record.file} {record.index_hash}\n" for record in self.records)
        return hashlib.blake2b(names.encode(), digest_size=8).hexdigest()

    @property
    def errors(self) -> Counter[str]:
        """Samples that prepare.py condemned, by code."""
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
        if shard not in self._indexes:
            record = self.records[shard]
            path = index_path(self.folder / record.file)
            loaded = ShardIndex.load(path)
            if loaded.content_hash.hex() != record.index_hash:
                raise DataError(
                    "E109",
                    f"{path.name} is not the index that dataset.json was written with. "
                    f"{prepare_hint(self.folder)}",
                    shard=record.file,
                )
            self._indexes[shard] = loaded
        return self._indexes[shard]

    def error(self, sample: int) -> str | None:
        """Code for which prepare.py condemned a sample."""
        shard, local = self.locate(sample)
        number = int(self.index(shard).samples["error"][local])
        return f"E{number}" if number else None

    def read(self, sample: int) -> RawSample:
        """Read one sample with a single pread.

        Raises:
            DataError: E110 its bytes are not those that were indexed.
            OSError: the read failed three times.
        """
        shard, local = self.locate(sample)
        row = self.index(shard).samples[local]
        data = self._read_checked(shard, local, int(row["length"]), len(self._rows(shard, local)))
        name = self.records[shard].file
        members = tar.split_members(data, shard=name)
        files = dict(tar.member_bytes(data, members))
        document = parse_document(files.pop("json"))
        return RawSample(key=members[0].key, shard=name, document=document, files=files)

    def read_document(self, sample: int) -> tuple[dict[str, Any], dict[str, tuple[int, int]]]:
        """Read only a sample's json, and look up the size of each of its pictures.

        Returns:
            The document, and file name -> (width, height).
        """
        shard, local = self.locate(sample)
        rows = self._rows(shard, local)
        end = int(rows["offset"][0]) + int(rows["size"][0])
        data = self._read_checked(shard, local, end, 1)
        document = parse_document(data[int(rows["offset"][0]) : end])
        sizes = zip(rows["width"][1:].tolist(), rows["height"][1:].tolist(), strict=True)
        return document, dict(zip(listed_files(document), sizes, strict=True))

    def _rows(self, shard: int, local: int) -> Rows:
        return self.index(shard).members_of(local)

    def _read_checked(self, shard: int, local: int, length: int, members: int) -> bytes:
        """Bytes from the start of a sample, with the checksums of its first members compared.

        Damage on the way (a bad cable, a flaky file server) goes away on a second read; a shard
        that was overwritten does not.
        """
        offset = int(self.index(shard).samples["offset"][local])
        for attempt in range(READ_ATTEMPTS):
            try:
                data = self._pread(shard, length, offset)
                if self._is_intact(data, self._rows(shard, local)[:members]):
                    return data
                failure: Exception = DataError(
                    "E110",
                    f"the bytes at {offset} differ from those that were indexed. If the shard was "
                    f"rewritten on purpose: {prepare_hint(self.folder)}",
                    shard=self.records[shard].file,
                )
            except OSError as error:
                failure = OSError(
                    error.errno,
                    f"shard {self.records[shard].file}: {length} bytes at {offset} could not be "
                    f"read: {error}. Check the file system, then resume",
                )
            self._close(shard)
            time.sleep(RETRY_SECONDS * 2**attempt if attempt + 1 < READ_ATTEMPTS else 0)
        raise failure

    def _pread(self, shard: int, length: int, offset: int) -> bytes:
        data = os.pread(self._descriptor(shard), length, offset)
        if len(data) != length:
            raise OSError(f"got {len(data)} bytes")
        return data

    @staticmethod
    def _is_intact(data: bytes, rows: Rows) -> bool:
        view = memoryview(data)
        return all(
            zlib.crc32(view[offset : offset + size]) == crc
            for offset, size, crc, _, _ in rows.tolist()
        )

    def _descriptor(self, shard: int) -> int:
        if self._owner != os.getpid():
            self._files, self._owner = OrderedDict(), os.getpid()
        if shard not in self._files:
            if len(self._files) >= MAX_OPEN_SHARDS:
                self._close(next(iter(self._files)))
            self._files[shard] = os.open(self.folder / self.records[shard].file, os.O_RDONLY)
        self._files.move_to_end(shard)
        return self._files[shard]

    def _close(self, shard: int) -> None:
        descriptor = self._files.pop(shard, None)
        if descriptor is not None:
            os.close(descriptor)
