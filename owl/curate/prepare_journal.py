# SPDX-License-Identifier: Apache-2.0
"""What prepare.py remembers of each shard: its record and the lines about its problems.

`prepare.jsonl` gets a line as soon as a shard is done, so a run that is killed loses only the
shards that it was at. When all are done it keeps those with problems, whose lines are said again
without reading the shard again; nothing but prepare.py looks at it.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from owl.data.shards.index import (
    DATASET_FILE,
    ShardRecord,
    hash_file,
    index_path,
    read_records,
    replace_file,
)
from owl.errors import DataError

JOURNAL_FILE = "prepare.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedShard:
    """What became of one shard."""

    file: str
    bytes: int
    mtime_ns: int
    record: ShardRecord | None  # None: the tar is broken
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, path: Path, record: ShardRecord | None, problems: list[str]) -> Self:
        """Describe a shard that was just read."""
        found = path.stat()
        return cls(
            file=path.name,
            bytes=record.bytes if record else found.st_size,
            mtime_ns=record.mtime_ns if record else found.st_mtime_ns,
            record=record,
            problems=problems,
        )

    def is_current(self, path: Path) -> bool:
        """Whether shard and index are still those that were looked at."""
        found, index = path.stat(), index_path(path)
        if (found.st_size, found.st_mtime_ns) != (self.bytes, self.mtime_ns):
            return False
        return self.record is None or (
            index.is_file() and hash_file(index) == self.record.index_hash
        )


class Journal:
    """The shards of a folder that need not be read again."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / JOURNAL_FILE
        self.known = _from_dataset(folder) | _from_lines(self._path)
        self._begin = b"\n" if self._path.is_file() else b""  # ends a line that a crash tore

    def add(self, shard: PreparedShard) -> None:
        """Note a shard that is done, with one write."""
        with self._path.open("ab") as file:
            file.write(self._begin + _line(shard))
        self._begin = b""

    def finish(self, shards: Iterable[PreparedShard]) -> None:
        """Keep what dataset.json does not say."""
        kept = b"".join(_line(shard) for shard in shards if shard.problems)
        if kept:
            replace_file(self._path, kept)
        else:
            self._path.unlink(missing_ok=True)


def _line(shard: PreparedShard) -> bytes:
    return (json.dumps(asdict(shard)) + "\n").encode()


def _from_lines(path: Path) -> dict[str, PreparedShard]:
    known: dict[str, PreparedShard] = {}
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        try:
            values = json.loads(line)
            record = values.pop("record")
            shard = PreparedShard(record=ShardRecord(**record) if record else None, **values)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # torn, or of an older version: the shard is read again
        known[shard.file] = shard
    return known


def _from_dataset(folder: Path) -> dict[str, PreparedShard]:
    """Shards without a fault: dataset.json says all that there is to say."""
    if not (folder / DATASET_FILE).is_file():
        return {}
    try:
        records = read_records(folder)
    except DataError:
        return {}  # of an older version: everything is indexed again
    return {
        record.file: PreparedShard(
            file=record.file, bytes=record.bytes, mtime_ns=record.mtime_ns, record=record
        )
        for record in records
        if not record.errors
    }
