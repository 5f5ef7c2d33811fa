# SPDX-License-Identifier: Apache-2.0
"""Make a folder of shards ready for training: indexes, dataset.json, and token counts."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from owl.config.run import LiteralPolicy, RunConfig
from owl.curate.prepare_journal import Journal
from owl.data.encode.encoder import SampleEncoder
from owl.data.encode.tokenizer import load_tokenizer
from owl.data.families import Reading, reading_of
from owl.data.plan.lengths import load_counts
from owl.data.shards.dataset import Dataset
from owl.data.shards.index import (
    ShardRecord,
    index_shard,
    invalid_samples,
    read_records,
    write_dataset,
)
from owl.errors import ConfigError, DataError

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Counting:
    """Settings of a run that token counts depend on."""

    tokenizer: Path
    reading: Reading
    max_frames: int | None = None
    literals: LiteralPolicy = LiteralPolicy.reject

    def encoder(self) -> SampleEncoder:
        """Build what counts; the files of counts are named after it."""
        return SampleEncoder(
            load_tokenizer(self.tokenizer, self.reading.controls),
            self.reading,
            max_frames=self.max_frames,
            literals=self.literals,
        )


def countings_of_run(run: RunConfig, folder: Path) -> list[Counting]:
    """Return what a run counts in a folder: once for each setting of its sources there.

    Raises:
        ConfigError: none of its sources is this folder.
    """
    here = [s for s in run.data.sources.values() if Path(s.path).resolve() == folder.resolve()]
    if not here:
        paths = ", ".join(f"{name}={s.path}" for name, s in run.data.sources.items()) or "none"
        raise ConfigError(
            f"no data.sources.NAME.path is {folder}, so the run does not define how to count it "
            f"(its sources: {paths}). Name the folder as data.sources.NAME.path."
        )
    if not run.data.tokenizer:
        raise ConfigError("data.tokenizer is not set, so tokens cannot be counted. Set it.")
    frames = [s.max_frames if s.max_frames is not None else run.data.max_frames for s in here]
    return [
        Counting(
            Path(run.data.tokenizer),
            reading_of(run.model),
            limit,
            run.data.special_literals,
        )
        for limit in dict.fromkeys(frames)
    ]


@dataclass(frozen=True, slots=True)
class ShardDone:
    """A shard that was just looked at."""

    verb: str  # unchanged, indexed or counted
    number: int  # from 1
    total: int
    path: Path


@dataclass(frozen=True, slots=True)
class Indexed:
    """The record of a shard, None if its tar is broken, and a line about each problem."""

    record: ShardRecord | None
    problems: list[str]


def prepare_folder(
    folder: Path,
    *,
    countings: Sequence[Counting] = (),
    workers: int = 1,
    progress: Callable[[ShardDone], None] = lambda done: None,
) -> list[str]:
    """Index every `*.tar` of a folder and write dataset.json.

    It can be resumed at every shard: those whose index is still good are not indexed again, and no
    file has its final name before it is complete.

    Args:
        folder: holds the shards.
        countings: also count tokens, once for each.
        workers: processes.
        progress: called for each shard that is indexed, then for each that is counted.

    Returns:
        A line for each broken shard or invalid sample. dataset.json leaves broken shards out.
    """
    paths = sorted(folder.glob("*.tar"))
    journal = Journal(folder)
    known = {path: record for path in paths if (record := journal.current(path))}
    for number, path in enumerate(known, start=1):
        progress(ShardDone("unchanged", number, len(paths), path))

    def note(number: int, path: Path, shard: Indexed) -> None:
        if shard.record:
            journal.add(shard.record)
        progress(ShardDone("indexed", len(known) + number, len(paths), path))

    fresh = _each(_index, [path for path in paths if path not in known], workers, note)
    shards = {
        path: fresh.get(path) or Indexed(known[path], _problems_again(path, known[path]))
        for path in paths
    }
    write_dataset(folder, [shard.record for shard in shards.values() if shard.record])
    journal.finish()
    sound = [path for path, shard in shards.items() if shard.record]
    for counting in countings:

        def note_count(number: int, path: Path, _: None) -> None:
            progress(ShardDone("counted", number, len(sound), path))

        _each(partial(_count, counting), sound, workers, note_count)
    return [problem for shard in shards.values() for problem in shard.problems]


def _index(path: Path) -> Indexed:
    problems: list[str] = []
    try:
        record = index_shard(path, report=lambda error: problems.append(str(error)))
    except DataError as error:
        return Indexed(None, [str(error)])
    return Indexed(record, problems)


def _problems_again(path: Path, record: ShardRecord) -> list[str]:
    """What indexing an unchanged shard reported."""
    return [str(error) for error in invalid_samples(path)] if record.errors else []


def _count(counting: Counting, path: Path) -> None:
    records = [record for record in read_records(path.parent) if record.file == path.name]
    load_counts(Dataset(path.parent, records), 0, counting.encoder())


def _each(
    work: Callable[[Path], Result],
    paths: list[Path],
    workers: int,
    done: Callable[[int, Path, Result], None],
) -> dict[Path, Result]:
    """Do the work for each path, and call `done` as each is done."""
    results: dict[Path, Result] = {}
    for path, result in _results(work, paths, workers):
        results[path] = result
        done(len(results), path, result)
    return results


def _results(
    work: Callable[[Path], Result], paths: list[Path], workers: int
) -> Iterator[tuple[Path, Result]]:
    """Yield results in the order in which they are done."""
    if workers == 1 or len(paths) < 2:
        yield from ((path, work(path)) for path in paths)
        return
    pool = ProcessPoolExecutor(workers)
    try:
        waiting: dict[Future[Result], Path] = {pool.submit(work, path): path for path in paths}
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(future), future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # when stopped, start no other shard
