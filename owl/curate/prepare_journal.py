# SPDX-License-Identifier: Apache-2.0
"""Which shards of a folder need not be indexed again, also after a run that was killed.

While shards are being indexed, `prepare.jsonl` gets the record of each as soon as it is done;
dataset.json, written at the end, replaces it. Nothing else reads that file.
"""

import json
from dataclasses import asdict
from pathlib import Path

from owl.data.shards.index import (
    DATASET_FILE,
    ShardRecord,
    hash_file,
    index_path,
    read_records,
)
from owl.errors import DataError

JOURNAL_FILE = "prepare.jsonl"


class Journal:
    """The records of the shards of a folder that were indexed before, by file name."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / JOURNAL_FILE
        self._known = _from_dataset(folder) | _from_lines(self._path)
        self._begin = b"\n" if self._path.is_file() else b""  # ends a line that a crash cut off

    def current(self, path: Path) -> ShardRecord | None:
        """Return the record of a shard if neither it nor its index changed since."""
        record, found, index = self._known.get(path.name), path.stat(), index_path(path)
        if record is None or (found.st_size, found.st_mtime_ns) != (record.bytes, record.mtime_ns):
            return None
        is_same = index.is_file() and hash_file(index) == record.index_hash
        return record if is_same else None

    def add(self, record: ShardRecord) -> None:
        """Append a shard that is done, with one write."""
        with self._path.open("ab") as file:
            file.write(self._begin + json.dumps(asdict(record)).encode() + b"\n")
        self._begin = b""

    def finish(self) -> None:
        """Delete the file: dataset.json has all of it."""
        self._path.unlink(missing_ok=True)


def _from_lines(path: Path) -> dict[str, ShardRecord]:
    known: dict[str, ShardRecord] = {}
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        try:
            record = ShardRecord(**json.loads(line))
        except (ValueError, TypeError):
            continue  # cut off, or of an older version: the shard is read again
        known[record.file] = record
    return known


def _from_dataset(folder: Path) -> dict[str, ShardRecord]:
    if not (folder / DATASET_FILE).is_file():
        return {}
    try:
        return {record.file: record for record in read_records(folder)}
    except DataError:
        return {}  # of an older version: everything is indexed again
