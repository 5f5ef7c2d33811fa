# SPDX-License-Identifier: Apache-2.0
"""A conversion: batches of records to shards, in several processes, resumable at any point.

The output folder holds

    {file}-{batch}-{part}.tar   shards; each appears when it is complete
    rejects.jsonl               every record that gave no sample: file, line, code, message
    convert.json                the settings, and how many samples and rejects there are
    .convert/                   one note per finished batch, which a resumed run does not repeat
"""

import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from errno import ENOLCK, ENOSYS, EOPNOTSUPP
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from owl.curate.converters.batch_notes import (
    NOTES,
    BatchNote,
    is_current,
    load_notes,
    note_path,
    save_note,
    save_pictures,
)
from owl.curate.converters.formats.registry import SourceFormat
from owl.curate.converters.pictures import PictureStore, SourceFolder
from owl.curate.converters.records import (
    ConvertedSample,
    ConvertError,
    ConvertOptions,
    Reject,
    SourceRecord,
    finish_draft,
)
from owl.curate.converters.shard_series import ShardLimits, ShardSeries, drop_shards
from owl.curate.converters.sources.source import Batch, SourceFile, list_files
from owl.data.shards.index import replace_file
from owl.errors import DataError
from owl.progress import Progress

logger = logging.getLogger(__name__)

NO_LOCKS = (ENOLCK, ENOSYS, EOPNOTSUPP)
"""Errors of a disk that has no locks, such as Lustre mounted without flock."""
SETTINGS_FILE = "convert.json"
REJECTS_FILE = "rejects.jsonl"
FORMAT = 2
"""Raise it when the same source and options give samples that train differently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertJob:
    """Everything that decides what is written."""

    format: SourceFormat
    input: Path
    images: Path | None
    output: Path
    name: str
    """First part of every key."""
    options: ConvertOptions
    limits: ShardLimits = field(default_factory=ShardLimits)

    def settings(self) -> dict[str, Any]:
        """What a resumed run must have in common with the run before it."""
        options = {name: _plain(value) for name, value in asdict(self.options).items()}
        return {
            "format": FORMAT,
            "family": self.format.name,  # the name that finished conversions have
            "name": self.name,
            "input": str(self.input.resolve()),
            "images": str(self.images.resolve()) if self.images else None,
            **options,
            **self.format.settings,
            **asdict(self.limits),
        }

    def store(self) -> PictureStore:
        """Where the pictures are read."""
        place = self.images
        if place is None and self.format.has_pictures_beside:
            place = self.input if self.input.is_dir() else self.input.parent
        folder = SourceFolder(place, self.options.follow_links) if place else None
        return PictureStore(folder, self.options)


def _plain(value: object) -> object:
    """A value of an option as json gives it back."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What became of a source."""

    samples: int
    shards: int
    rejects: int
    codes: dict[str, int]
    pictures: int
    left_out: dict[str, int]
    bare: int
    layouts: dict[str, int]
    abandoned: list[str]
    """Shards of an earlier run whose input is gone or is divided into other batches."""


def convert(
    job: ConvertJob,
    *,
    workers: int = 1,
    retry_rejects: bool = False,
    report: Callable[[str], None] = print,
) -> ConvertReport:
    """Convert a source, or resume its conversion.

    Args:
        job: what to convert.
        workers: processes.
        retry_rejects: convert finished batches again in which records were rejected.
        report: is given the progress lines.

    Raises:
        ConvertError: the output belongs to another conversion, or the input cannot be read.
        OSError: the disk failed; run again to resume.
    """
    with _locked(job.output):
        _check_settings(job)
        notes = load_notes(job.output)
        files = list_files(
            job.input,
            job.format.source.suffixes,
            follow_links=job.options.follow_links,
            together=job.format.is_folder_of_pages,
        )
        progress = Progress("convert", sum(file.size for file in files), report)
        samples = rejects = 0
        done: dict[str, BatchNote] = {}

        def is_left(batch: Batch) -> bool:
            note = notes.get(batch.stem)
            if note is None or not is_current(note, batch, job.output, retry_rejects):
                return True
            done[note.stem] = note
            progress.skip(batch.source_bytes)
            return False

        try:
            left = filter(is_left, _read_batches(job, files))
            for batch, note in _convert_all(job, left, workers):
                done[note.stem] = note
                samples, rejects = samples + note.samples, rejects + len(note.rejects)
                progress.advance(batch.source_bytes, f"{samples} samples, {rejects} rejected")
        finally:
            _write_rejects(job.output, done)
        progress.finish()
        return _finish(job, done, abandoned=[notes[stem] for stem in notes.keys() - done.keys()])


def _read_batches(job: ConvertJob, files: Sequence[SourceFile]) -> Iterator[Batch]:
    for file in files:
        yield from job.format.source.read_batches(
            file, max_records=job.limits.max_samples, options=job.options
        )


def convert_batch(job: ConvertJob, batch: Batch) -> BatchNote:
    """Convert one batch into shards of its own, and save a note that it is done."""
    # The note goes first: if this run is killed, new shards must not be beside an old note.
    note_path(job.output, batch.stem).unlink(missing_ok=True)
    drop_shards(job.output, batch.stem)
    rejects: list[Reject] = []
    written: list[ConvertedSample] = []  # without their files
    with ShardSeries(job.output, batch.stem, job.limits) as series:
        store = job.store()
        for record in job.format.source.read_records(batch):
            made = _write(record, job, store, series=series, slug=batch.file.slug)
            if isinstance(made, Reject):
                rejects.append(made)
            else:
                written.append(replace(made, files={}))
    note = BatchNote(
        batch.stem,
        batch.fingerprint,
        [(path.name, path.stat().st_size) for path in series.paths],
        samples=len(written),
        rejects=rejects,
        pictures=sum(len(sample.document["media"]) for sample in written),
        left_out=dict(sum((Counter(sample.left_out) for sample in written), Counter())),
        bare=sum(1 for each in written if each.left_out and not each.document["media"]),
        layouts=dict(Counter(sample.layout for sample in written if sample.layout)),
    )
    save_pictures(job.output, batch.stem, written)
    save_note(job.output, note)
    return note


def convert_record(
    record: SourceRecord, job: ConvertJob, store: PictureStore, *, slug: str
) -> ConvertedSample:
    """Make the sample of one record. Raises DataError."""
    return finish_draft(
        job.format.to_draft(record, store),
        record,
        f"{job.name}/{slug}/{record.key or f'{record.line:08}'}",
        source=job.format.name,
        escape=job.options.escape,
    )


def _write(
    record: SourceRecord | Reject,
    job: ConvertJob,
    store: PictureStore,
    *,
    series: ShardSeries,
    slug: str,
) -> ConvertedSample | Reject:
    """Write the sample of one record; return it, or why there is none."""
    if isinstance(record, Reject):
        return record
    try:
        sample = convert_record(record, job, store, slug=slug)
        series.write(sample)
    except DataError as error:
        return Reject(record.file, record.line, error.code, error.message)
    return sample


# Processes.


def _convert_all(
    job: ConvertJob, batches: Iterator[Batch], workers: int
) -> Iterator[tuple[Batch, BatchNote]]:
    if workers == 1:
        for batch in batches:
            yield batch, convert_batch(job, batch)
        return
    with ProcessPoolExecutor(workers, initializer=_end_with_parent) as pool:
        try:
            yield from _in_flight(pool, job, batches, limit=2 * workers)
        except BrokenProcessPool as error:
            raise ConvertError(
                "a worker died, most likely because memory ran out. Run the same command with "
                "fewer --workers: finished batches are kept."
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _in_flight(
    pool: ProcessPoolExecutor, job: ConvertJob, batches: Iterator[Batch], *, limit: int
) -> Iterator[tuple[Batch, BatchNote]]:
    """Submit a few batches ahead, not the entire source."""
    running: dict[Future[BatchNote], Batch] = {}
    for batch in batches:
        running[pool.submit(convert_batch, job, batch)] = batch
        if len(running) >= limit:
            yield from _finished(running)
    while running:
        yield from _finished(running)


def _finished(running: dict[Future[BatchNote], Batch]) -> Iterator[tuple[Batch, BatchNote]]:
    ready, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in ready:
        yield running.pop(future), future.result()


def _end_with_parent() -> None:
    """Make a worker end when its parent is killed; it would wait for batches forever."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# The output folder.


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Keep a second conversion out. The lock ends with this process, killed or not.

    On a disk without such locks the conversion goes on without one: a lock that is only a file
    would outlast a crash, and nobody could resume.

    Workers do not inherit it. One that outlives its parent for a moment writes under a temporary
    name of its own, so that it cannot disturb a run that resumes at once.
    """
    (output / NOTES).mkdir(parents=True, exist_ok=True)
    lock: AbstractContextManager[object]
    try:
        lock = FileLock(output / NOTES / "lock", fallback_to_soft=False).acquire(timeout=0)
    except Timeout as error:
        raise ConvertError(
            f"--output {output}: another conversion is writing there. Wait for it to end."
        ) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        logger.warning("--output %s cannot be locked: start no second conversion there", output)
        lock = nullcontext()
    with lock:
        yield


def _check_settings(job: ConvertJob) -> None:
    """Refuse to mix two conversions in one folder; save the settings of a new one."""
    path, settings = job.output / SETTINGS_FILE, job.settings()
    if not path.is_file():
        if any(job.output.glob("*.tar")):
            raise ConvertError(
                f"--output {job.output} holds shards that were not written by a conversion. Choose "
                "an empty folder."
            )
        _save_settings(job, {})
        return
    before = json.loads(path.read_text(encoding="utf-8"))["settings"]
    changes = [
        f"{name}: {before.get(name)!r} before, {value!r} now"
        for name, value in settings.items()
        if before.get(name) != value
    ]
    if changes:
        raise ConvertError(
            f"--output {job.output} holds a conversion with other settings ({'; '.join(changes)}). "
            "Use the same settings to resume it, or choose an empty folder."
        )


def _save_settings(job: ConvertJob, totals: dict[str, Any]) -> None:
    content = {"settings": job.settings(), **totals}
    replace_file(job.output / SETTINGS_FILE, json.dumps(content, indent=1).encode())


def _write_rejects(output: Path, done: dict[str, BatchNote]) -> None:
    """Write the rejects of all finished batches, in the order of the source."""
    lines = [
        json.dumps(asdict(reject), ensure_ascii=False).encode("utf-8", "backslashreplace")
        for stem in sorted(done)
        for reject in done[stem].rejects
    ]
    replace_file(output / REJECTS_FILE, b"".join(line + b"\n" for line in lines))


def _finish(
    job: ConvertJob, done: dict[str, BatchNote], *, abandoned: Sequence[BatchNote]
) -> ConvertReport:
    codes = Counter(reject.code for note in done.values() for reject in note.rejects)
    report = ConvertReport(
        samples=sum(note.samples for note in done.values()),
        shards=sum(len(note.shards) for note in done.values()),
        rejects=codes.total(),
        codes=dict(sorted(codes.items())),
        pictures=sum(note.pictures for note in done.values()),
        left_out=_total(note.left_out for note in done.values()),
        bare=sum(note.bare for note in done.values()),
        layouts=_total(note.layouts for note in done.values()),
        abandoned=sorted(name for note in abandoned for name, _ in note.shards),
    )
    _save_settings(job, asdict(report))
    return report


def _total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    return dict(sorted(sum((Counter(each) for each in counts), Counter()).items()))
