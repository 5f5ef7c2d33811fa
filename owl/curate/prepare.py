# SPDX-License-Identifier: Apache-2.0
"""Make a folder of shards ready for training: indexes, dataset.json, and token counts."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from owl.config.run import LiteralPolicy, RunConfig
from owl.curate.prepare_journal import Journal, PreparedShard
from owl.data.encode.encoder import SampleEncoder
from owl.data.encode.tokenizer import load_tokenizer
from owl.data.plan.lengths import load_counts
from owl.data.shards.dataset import Dataset
from owl.data.shards.index import index_shard, read_records, write_dataset
from owl.errors import ConfigError, DataError

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Counting:
    """For which settings of a run token counts are made ahead of time."""

    tokenizer: Path
    template: str
    image_size: int
    max_frames: int | None = None
    literals: LiteralPolicy = LiteralPolicy.reject

    def encoder(self) -> SampleEncoder:
        """What counts; its name is that of the files."""
        return SampleEncoder(
            load_tokenizer(self.tokenizer),
            self.template,
            self.image_size,
            max_frames=self.max_frames,
            literals=self.literals,
        )


def countings_of_run(run: RunConfig, folder: Path) -> list[Counting]:
    """What a run counts in a folder: as often as its sources that lie there differ.

    Raises:
        ConfigError: none of its sources lies there.
    """
    here = [s for s in run.data.sources.values() if Path(s.path).resolve() == folder.resolve()]
    if not here:
        paths = ", ".join(f"{name}={s.path}" for name, s in run.data.sources.items()) or "none"
        raise ConfigError(
            f"no data.sources.NAME.path is {folder}, so the run does not say how to count it (its "
            f"sources: {paths}). Name the folder as data.sources.NAME.path."
        )
    if not run.data.tokenizer:
        raise ConfigError("data.tokenizer is not set, so there is nothing to count with. Name it.")
    frames = [s.max_frames if s.max_frames is not None else run.data.max_frames for s in here]
    return [
        Counting(
            Path(run.data.tokenizer),
            run.model.template,
            run.model.vision_tower.image_size,
            limit,
            run.data.special_literals,
        )
        for limit in dict.fromkeys(frames)
    ]


@dataclass(frozen=True, slots=True)
class ShardDone:
    """A shard that was just looked at."""

    verb: str  # indexed or counted
    number: int  # from 1
    total: int
    path: Path


def prepare_folder(
    folder: Path,
    *,
    countings: Sequence[Counting] = (),
    workers: int = 1,
    progress: Callable[[ShardDone], None] = lambda done: None,
) -> list[str]:
    """Index every `*.tar` of a folder and write dataset.json.

    Restartable at every shard: those whose index is still good are not read again, and nothing
    half-written is ever left under a final name.

    Args:
        folder: holds the shards.
        countings: also count tokens, once for each.
        workers: processes.
        progress: told of each shard that is indexed, then of each that is counted.

    Returns:
        A line for each broken shard or invalid sample. dataset.json leaves broken shards out.
    """
    paths = sorted(folder.glob("*.tar"))
    journal = Journal(folder)
    known = {
        path: s for path in paths if (s := journal.known.get(path.name)) and s.is_current(path)
    }
    for number, path in enumerate(known, start=1):
        progress(ShardDone("unchanged", number, len(paths), path))

    def note(number: int, path: Path, shard: PreparedShard) -> None:
        journal.add(shard)
        progress(ShardDone("indexed", len(known) + number, len(paths), path))

    fresh = [path for path in paths if path not in known]
    done = known | _each(_prepare_shard, fresh, workers, note)
    shards = [done[path] for path in paths]
    write_dataset(folder, [shard.record for shard in shards if shard.record])
    journal.finish(shards)
    whole = [path for path, shard in zip(paths, shards, strict=True) if shard.record]
    for counting in countings:

        def tell(number: int, path: Path, _: None) -> None:
            progress(ShardDone("counted", number, len(whole), path))

        _each(partial(_count, counting), whole, workers, tell)
    return [problem for shard in shards for problem in shard.problems]


def _prepare_shard(path: Path) -> PreparedShard:
    problems: list[str] = []
    try:
        record = index_shard(path, report=lambda error: problems.append(str(error)))
    except DataError as error:
        return PreparedShard.of(path, None, [str(error)])
    return PreparedShard.of(path, record, problems)


def _count(counting: Counting, path: Path) -> None:
    records = [record for record in read_records(path.parent) if record.file == path.name]
    load_counts(Dataset(path.parent, records), 0, counting.encoder())


def _each(
    work: Callable[[Path], Result],
    paths: list[Path],
    workers: int,
    done: Callable[[int, Path, Result], None],
) -> dict[Path, Result]:
    """Do the work for each path, and tell of each as soon as it is done."""
    results: dict[Path, Result] = {}
    for path, result in _results(work, paths, workers):
        results[path] = result
        done(len(results), path, result)
    return results


def _results(
    work: Callable[[Path], Result], paths: list[Path], workers: int
) -> Iterator[tuple[Path, Result]]:
    """Yield results as they come."""
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
        pool.shutdown(cancel_futures=True)  # stopped halfway: begin no other shard
