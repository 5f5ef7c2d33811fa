# SPDX-License-Identifier: Apache-2.0
"""Check every sample of a folder: good, or bad with shard, key or byte, code and message.

Preparing a folder stops at the first problem of a sample and leaves a damaged tar out. Here all
problems of a sample are reported, pictures are decoded completely, and samples behind damage are
found. The rules themselves are the functions that training uses.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from owl.config.run import CutPolicy, LiteralPolicy
from owl.curate.lint.index_check import IndexCheck, check_index, missing_shard
from owl.curate.lint.report import BadSample, FolderReport, ShardProblem, ShardReport
from owl.curate.lint.salvage import FoundSample, salvage
from owl.data.encode.encoder import SampleEncoder
from owl.data.encode.images import decode_picture, picture_size
from owl.data.encode.tokenizer import load_tokenizer
from owl.data.families import Reading
from owl.data.shards import tar
from owl.data.shards.document import Document, VideoMedia, parse_json
from owl.data.shards.index import (
    DATASET_FILE,
    LITERAL_ERROR,
    ShardRecord,
    prepare_hint,
    read_records,
)
from owl.data.shards.rules import size_problems, validate
from owl.data.shards.schema import SampleProblem
from owl.data.shown import CutChoice, Sizes
from owl.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """Limits of a run on the length of a sample, and how that run counts tokens."""

    tokenizer: Path
    reading: Reading
    text_tokens: int
    tiles: int
    cut: CutPolicy
    max_frames: int | None = None


ASSUMED = {
    CutPolicy.off: (CutChoice.none, "no picture cut (data.cut=off)"),
    CutPolicy.on: (CutChoice.single, "pictures cut as data.cut=on does"),
    CutPolicy.published: (
        CutChoice.single,
        "its picture cut, which data.cut=published does in one of five passes over it",
    ),
}
"""How a sample is measured under each policy, in code and in words: at its largest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """Which checks to make."""

    pixels: bool = True  # decode pictures; otherwise only their headers are read
    escape: bool = False  # allow E206, since the run has data.special_literals=escape
    budgets: Budgets | None = None


def lint_folder(
    folder: Path,
    checks: Checks,
    *,
    workers: int = 1,
    report: Callable[[Path, ShardReport], None] = lambda path, shard: None,
) -> FolderReport:
    """Check every sample of every `*.tar` of a folder, and every shard that should be there.

    Args:
        folder: of the shards; it may be prepared or not.
        checks: which checks to make.
        workers: processes.
        report: called with each shard as it is done, in order.
    """
    records, problems = _records(folder)
    paths = sorted(folder.glob("*.tar"))
    lint = partial(_lint_listed, records=records, checks=checks)
    shards = []
    with ProcessPoolExecutor(workers) if workers > 1 else nullcontext() as pool:
        reports = pool.map(lint, paths) if pool else map(lint, paths)
        for path, shard in zip(paths, reports, strict=True):
            report(path, shard)
            shards.append(shard)
    present = {path.name for path in paths}
    shards += [_missing(folder, r) for name, r in sorted(records.items()) if name not in present]
    if records:
        problems += [p for shard in shards if (p := _unlisted(folder, shard, records))]
    return FolderReport(folder, shards, problems)


def lint_shard(path: Path, record: ShardRecord | None, checks: Checks) -> ShardReport:
    """Check every sample of one shard.

    Args:
        path: the tar.
        record: of the shard in dataset.json, if there is one.
        checks: which checks to make.
    """
    with tar.mapped(path) as view:
        found = salvage(view, shard=path.name)
        index = check_index(path, view, record, found)
        bad = list(_bad_samples(view, found.samples, index, checks))
        bad += [BadSample(None, offset, [problem]) for offset, problem in index.lost]
        return ShardReport(
            file=path.name,
            samples=len(found.samples) + len(index.lost),
            bad=bad,
            problems=[
                *(
                    ShardProblem(damage.code, damage.message, damage.offset)
                    for damage in found.damage
                    if not damage.hides_file or not found.samples  # else of a sample
                ),
                *(ShardProblem("E109", message) for message in index.problems),
            ],
        )


def _records(folder: Path) -> tuple[dict[str, ShardRecord], list[ShardProblem]]:
    """The records of dataset.json by shard; none for a folder that is not prepared yet."""
    if not (folder / DATASET_FILE).is_file():
        return {}, []
    try:
        return {record.file: record for record in read_records(folder)}, []
    except DataError as error:
        return {}, [ShardProblem(error.code, error.message)]


def _lint_listed(path: Path, records: Mapping[str, ShardRecord], checks: Checks) -> ShardReport:
    return lint_shard(path, records.get(path.name), checks)


def _missing(folder: Path, record: ShardRecord) -> ShardReport:
    problem = missing_shard(folder)
    return ShardReport(
        file=record.file,
        samples=record.samples,
        bad=[BadSample(None, None, [problem])] * record.samples,
        problems=[ShardProblem(problem.code, problem.message)],
    )


def _unlisted(
    folder: Path, shard: ShardReport, records: Mapping[str, ShardRecord]
) -> ShardProblem | None:
    """The problem of an undamaged shard that dataset.json does not list: it is never read."""
    if shard.file in records or shard.problems:
        return None
    return ShardProblem(
        "E109", f"{shard.file} is not in {DATASET_FILE}, so it is not read. {prepare_hint(folder)}"
    )


# One sample.


def _bad_samples(
    view: memoryview, samples: Sequence[FoundSample], index: IndexCheck, checks: Checks
) -> Iterator[BadSample]:
    for sample in samples:
        problems = [*sample.problems, *_content_problems(view, sample, checks)]
        if changed := index.changed.get(sample.offset):
            problems.append(changed)
        if problems:
            yield BadSample(sample.key, sample.offset, list(dict.fromkeys(problems)))


def _content_problems(
    view: memoryview, sample: FoundSample, checks: Checks
) -> Iterator[SampleProblem]:
    """Yield the problems of a sample's json and pictures, as far as they can be read."""
    files = {member.file: member.read(view) for member in reversed(sample.members)}
    if "json" not in files:
        return
    try:
        json = parse_json(files.pop("json"))
    except DataError as error:
        yield SampleProblem(error.code, error.message)
        return
    document, problems = validate(json, files.keys())
    if checks.escape:
        problems = [problem for problem in problems if problem.code != LITERAL_ERROR]
    yield from problems
    media = document.media if document else ()
    videos = {entry.file for entry in media if isinstance(entry, VideoMedia)}
    sizes: dict[str, tuple[int, int]] = {}
    for file in sorted(files.keys() - videos):
        try:
            sizes[file] = _check_picture(files[file], checks)
        except DataError as error:
            yield SampleProblem(error.code, f"{file!r}: {error.message}")
    if document is None:
        return
    yield from size_problems(document, sizes)
    if checks.budgets and not problems and len(sizes) == len(files):
        yield from _budget_problems(document, sizes, checks.budgets)


def _check_picture(picture: bytes, checks: Checks) -> tuple[int, int]:
    """Check a picture; return its width and height. Raises DataError E307..E310."""
    if not checks.pixels:
        return picture_size(picture)
    height, width, _ = decode_picture(picture).shape
    return width, height


def _budget_problems(document: Document, sizes: Sizes, budgets: Budgets) -> Iterator[SampleProblem]:
    """Yield E401, E402 and E405 for a sample that does not fit the budgets of a run."""
    encoder = budget_encoder(budgets)
    cut, assumed = ASSUMED[budgets.cut]
    tokens, tiles = encoder.measure(document, sizes, cut)
    expected = sum(shown.tiles for shown in encoder.places(document, sizes, cut))
    if tiles != expected:
        yield SampleProblem(
            "E405", f"the template writes {tiles} placeholders for {expected} tiles."
        )
    for code, name, amount, budget in (
        ("E401", "text tokens", tokens, budgets.text_tokens),
        ("E402", "tiles", tiles, budgets.tiles),
    ):
        if amount > budget:
            yield SampleProblem(
                code,
                f"{amount} {name} are more than the {budget} of a pack, with {assumed}. A run with "
                "data.oversize=drop leaves it out. Raise the budget, or split the sample.",
            )


@lru_cache(maxsize=1)
def budget_encoder(budgets: Budgets) -> SampleEncoder:
    """Build the encoder once per process; escaping does not change other text.

    Raises:
        DataError: E404, the tokenizer cannot be used.
    """
    return SampleEncoder(
        load_tokenizer(budgets.tokenizer, budgets.reading.controls),
        budgets.reading,
        max_frames=budgets.max_frames,
        literals=LiteralPolicy.escape,
    )
