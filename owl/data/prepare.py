# SPDX-License-Identifier: Apache-2.0
"""Make a folder of shards ready for training: indexes, dataset.json, and token counts."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from owl.config.run import TemplateKind
from owl.data.encode import SampleEncoder
from owl.data.index import (
    DATASET_FILE,
    ShardRecord,
    hash_file,
    index_path,
    index_shard,
    read_records,
    write_dataset,
)
from owl.data.lengths import load_counts
from owl.data.shards import Dataset
from owl.data.tokenizer import load_tokenizer
from owl.errors import DataError

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Counting:
    """For which tokenizer, template and tile size token counts are made ahead of time."""

    tokenizer: Path
    template: TemplateKind
    image_size: int


@dataclass(frozen=True, slots=True)
class ShardDone:
    """A shard that was just looked at."""

    verb: str  # indexed or counted
    number: int  # from 1
    total: int
    path: Path


@dataclass(frozen=True, slots=True)
class PreparedShard:
    """What became of one shard."""

    record: ShardRecord | None  # None: the tar is broken
    problems: list[str]
    reused: bool = False  # its index was still good


def prepare_folder(
    folder: Path,
    *,
    counting: Counting | None = None,
    workers: int = 1,
    progress: Callable[[ShardDone], None] = lambda done: None,
) -> list[str]:
    """Index every `*.tar` of a folder and write dataset.json.

    Restartable: shards whose index is still good are not read again, and nothing half-written is
    ever left under a final name.

    Args:
        folder: holds the shards.
        counting: also count tokens, where given.
        workers: processes.
        progress: told of each shard that is indexed, then of each that is counted.

    Returns:
        A line for each broken shard or condemned sample. dataset.json leaves broken shards out.
    """
    paths = sorted(folder.glob("*.tar"))
    known = _known_records(folder)
    prepare = partial(_prepare_shard, known=known)
    shards = list(_each(prepare, paths, workers, "indexed", progress))
    write_dataset(folder, [shard.record for shard in shards if shard.record])
    if counting:
        whole = [path for path, shard in zip(paths, shards, strict=True) if shard.record]
        list(_each(partial(_count, counting), whole, workers, "counted", progress))
    return [problem for shard in shards for problem in shard.problems]


def _known_records(folder: Path) -> dict[str, ShardRecord]:
    if not (folder / DATASET_FILE).is_file():
        return {}
    try:
        return {record.file: record for record in read_records(folder)}
    except DataError:
        return {}  # of an older version: everything is indexed again


def _prepare_shard(path: Path, known: dict[str, ShardRecord]) -> PreparedShard:
    record = known.get(path.name)
    if record and not record.errors and _is_current(path, record):
        return PreparedShard(record, [], reused=True)
    problems: list[str] = []
    try:
        record = index_shard(path, report=lambda error: problems.append(str(error)))
    except DataError as error:
        return PreparedShard(None, [str(error)])
    return PreparedShard(record, problems)


def _is_current(path: Path, record: ShardRecord) -> bool:
    index = index_path(path)
    found = path.stat()
    return (
        (found.st_size, found.st_mtime_ns) == (record.bytes, record.mtime_ns)
        and index.is_file()
        and hash_file(index) == record.index_hash
    )


def _count(counting: Counting, path: Path) -> None:
    encoder = SampleEncoder(
        load_tokenizer(counting.tokenizer), counting.template, counting.image_size
    )
    records = [record for record in read_records(path.parent) if record.file == path.name]
    load_counts(Dataset(path.parent, records), 0, encoder)


def _each(
    work: Callable[[Path], Result],
    paths: list[Path],
    workers: int,
    verb: str,
    progress: Callable[[ShardDone], None],
) -> Iterator[Result]:
    with ProcessPoolExecutor(workers) if workers > 1 else nullcontext() as pool:
        results = pool.map(work, paths) if pool else map(work, paths)
        for number, (path, result) in enumerate(zip(paths, results, strict=True), start=1):
            progress(ShardDone(verb, number, len(paths), path))
            yield result
