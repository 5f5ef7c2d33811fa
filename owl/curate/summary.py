# SPDX-License-Identifier: Apache-2.0
"""Summarise a prepared folder from its indexes alone: no sample is read."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from owl.data.plan.lengths import MAGIC
from owl.data.plan.shares import unlisted_files
from owl.data.shards.dataset import Dataset
from owl.data.shown import CutChoice
from owl.errors import UsageError

Values = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Distribution:
    """A number of each sample or picture, in bins that double in width."""

    name: str
    count: int
    total: int | None  # None where a sum means nothing
    mean: float
    middle: int  # half of the values are at most this
    most: int
    bins: Sequence[tuple[str, int]]  # "5-8" -> how many


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A folder in numbers. Invalid samples count in `samples` and `invalid` only."""

    folder: str
    shards: int
    bytes: int
    samples: int
    invalid: Mapping[str, int]  # code -> samples
    without_media: int  # valid samples without a picture or video
    unlisted: Sequence[str]  # shards in the folder that dataset.json does not list
    distributions: Sequence[Distribution]


def summarise(folder: Path) -> Summary:
    """Summarise the indexes of a folder.

    Raises:
        UsageError: there is no such folder.
        DataError: E203 the folder is not prepared, E109 a shard is not the one that was indexed.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder. Name one that owl data prepare has prepared.")
    dataset = Dataset.open(folder)
    records = dataset.records
    return Summary(
        folder=str(folder),
        shards=len(records),
        bytes=sum(record.bytes for record in records),
        samples=len(dataset),
        invalid=dict(sorted(dataset.errors.items())),
        without_media=sum(int((media == 0).sum()) for media in _media_counts(dataset)),
        unlisted=unlisted_files(dataset),
        distributions=[*_media(dataset), *_lengths(dataset)],
    )


def distribution(name: str, values: Values, *, adds_up: bool = True) -> Distribution:
    """Count integers in the bins 0, 1, 2, 3-4, 5-8, 9-16, ..., without empty bins at the ends.

    Args:
        name: of what was counted.
        values: one for each thing.
        adds_up: whether their sum means anything.
    """
    if not len(values):
        return Distribution(name, 0, 0 if adds_up else None, 0.0, 0, 0, [])
    # The bin of n > 0 ends at the next power of two: 1, 2, 4, 8, ...
    numbers = np.where(values > 0, np.ceil(np.log2(np.maximum(values, 1))).astype(np.int64) + 1, 0)
    counts = np.bincount(numbers)
    first = int(numbers.min())
    return Distribution(
        name=name,
        count=len(values),
        total=int(values.sum()) if adds_up else None,
        mean=float(values.mean()),
        middle=int(np.sort(values)[(len(values) - 1) // 2]),
        most=int(values.max()),
        bins=[(_label(number), int(counts[number])) for number in range(first, len(counts))],
    )


def _label(number: int) -> str:
    if number < 3:
        return str(number)
    return f"{2 ** (number - 2) + 1}-{2 ** (number - 1)}"


def _media(dataset: Dataset) -> Iterator[Distribution]:
    """Yield the number of pictures per sample, and the sizes of pictures."""
    sides: list[Values] = []
    for number in range(len(dataset.records)):
        index = dataset.index(number)
        long_sides = np.maximum(index.members["width"], index.members["height"])
        sides.append(long_sides[long_sides > 0].astype(np.int64))
    yield distribution("pictures of a sample", _joined([*_media_counts(dataset)]))
    yield distribution("longer side of a picture, pixels", _joined(sides), adds_up=False)


def _media_counts(dataset: Dataset) -> Iterator[Values]:
    """Yield the number of media files of each valid sample, shard by shard."""
    for number in range(len(dataset.records)):
        samples = dataset.index(number).samples
        good = samples[samples["error"] == 0]
        yield good["members"].astype(np.int64) - 1  # the json is a member too


def _lengths(dataset: Dataset) -> Iterator[Distribution]:
    """Yield text tokens and tiles per sample, for every tokenizer they were counted with."""
    counted: defaultdict[str, list[NDArray[np.int32]]] = defaultdict(list)
    for number in range(len(dataset.records)):
        for name, counts in _counts(dataset, number):
            good = dataset.index(number).samples["error"] == 0
            counted[name].append(counts[good])
    for name, parts in sorted(counted.items()):
        every = np.concatenate(parts).astype(np.int64)
        partly = "" if len(parts) == len(dataset.records) else f", {len(parts)} shard(s) only"
        for column, what in enumerate(("text tokens", "tiles")):
            for cut, how in ((CutChoice.none, "uncut"), (CutChoice.single, "cut")):
                yield distribution(
                    f"{what} of a sample, pictures {how} (counts {name}{partly})",
                    every[:, cut, column],
                )


def _counts(dataset: Dataset, shard: int) -> Iterator[tuple[str, NDArray[np.int32]]]:
    """Yield name and content of each file of counts that belongs to the present shard."""
    record = dataset.records[shard]
    prefix = MAGIC + dataset.index(shard).content_hash
    for path in sorted(Path(dataset.folder).glob(f"{record.file}.tok.*")):
        content = path.read_bytes()
        if content.startswith(prefix) and len(content) == len(prefix) + record.samples * 24:
            flat = np.frombuffer(content, "<i4", offset=len(prefix))
            yield path.suffix[1:], flat.reshape(record.samples, len(CutChoice), 2)


def _joined(parts: Sequence[Values]) -> Values:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)
