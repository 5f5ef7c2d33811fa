# SPDX-License-Identifier: Apache-2.0
"""Compare a shard with its index: does it belong to the shard, and which samples are lost?"""

import zlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from owl.curate.lint.salvage import FoundShard
from owl.data.shards.index import ShardIndex, ShardRecord, content_hash, index_path, prepare_hint
from owl.data.shards.schema import SampleProblem
from owl.errors import DataError


@dataclass(frozen=True, slots=True)
class IndexCheck:
    """The result of comparing a shard with its index."""

    problems: Sequence[str] = ()  # E109, about the entire shard
    changed: Mapping[int, SampleProblem] = field(default_factory=dict)  # by offset of the sample
    lost: Sequence[tuple[int, SampleProblem]] = ()  # offset of each sample that is gone, and why


def check_index(
    path: Path, view: memoryview, record: ShardRecord | None, found: FoundShard
) -> IndexCheck:
    """Compare a shard with the index beside it, if there is one.

    Args:
        path: the tar.
        view: its bytes.
        record: of the shard in dataset.json, if there is one.
        found: the samples that are there.
    """
    if not index_path(path).is_file():
        missing = f"its index is missing. {prepare_hint(path.parent)}"
        return IndexCheck([missing] if record else [])
    try:
        index = ShardIndex.load(index_path(path))
    except (DataError, ValueError) as error:  # ValueError: numpy, of an index that was cut off
        return IndexCheck([f"its index cannot be read: {error} {prepare_hint(path.parent)}"])
    is_recorded = record is not None and index.content_hash.hex() == record.index_hash
    if record is not None and not is_recorded:
        other = "its index is not the one that dataset.json was written with."
        return IndexCheck([f"{other} {prepare_hint(path.parent)}"])
    intact = _intact_samples(view, index)
    if not _belongs(len(view), index, intact, found, is_recorded=is_recorded):
        foreign = (
            f"{index_path(path).name} belongs to another shard, or this one was rewritten: "
            f"{sum(intact)} of the {len(intact)} samples that it lists are here. "
            f"{prepare_hint(path.parent)}"
        )
        return IndexCheck([foreign])
    return IndexCheck(_content_problems(path, view, record), *_compare(view, index, intact, found))


def missing_shard(folder: Path) -> SampleProblem:
    """The problem of a shard of dataset.json that is not there."""
    return SampleProblem(
        "E109", f"the shard is gone. Copy it back, or leave it out: {prepare_hint(folder)}"
    )


def _content_problems(path: Path, view: memoryview, record: ShardRecord | None) -> list[str]:
    """Any difference of the tar, even in its padding: Dataset.open refuses it too."""
    if record is None:
        return []
    if len(view) != record.bytes:
        sizes = f"it had {record.bytes} bytes when it was indexed and has {len(view)} now."
        return [f"{sizes} {prepare_hint(path.parent)}"]
    if content_hash(view).hex() != record.tar_hash:
        changed = "its content changed after it was indexed, so training refuses it."
        return [f"{changed} Copy it again, or index the new content. {prepare_hint(path.parent)}"]
    return []


def _intact_samples(view: memoryview, index: ShardIndex) -> list[bool]:
    """For each indexed sample, whether its files are still what they were."""
    return [_is_intact(view, index, sample) for sample in range(len(index.samples))]


def _is_intact(view: memoryview, index: ShardIndex, sample: int) -> bool:
    start = int(index.samples["offset"][sample])
    return all(
        zlib.crc32(view[start + offset : start + offset + size]) == crc
        for offset, size, crc, _, _ in index.members_of(sample)
    )


def _belongs(
    size: int, index: ShardIndex, intact: Sequence[bool], found: FoundShard, *, is_recorded: bool
) -> bool:
    """Whether an index is of this shard: most of its samples are here, or damage explains it.

    An undamaged tar in which few samples are as indexed has been replaced.
    """
    if not intact:  # of a valid tar without samples
        return not found.samples
    ends = index.samples["offset"] + index.samples["length"]
    inside = int((ends <= size).sum())  # of a truncated tar, only the rest is compared
    return 2 * sum(intact) >= max(inside, 1) or (is_recorded and bool(found.damage))


def _compare(
    view: memoryview, index: ShardIndex, intact: Sequence[bool], found: FoundShard
) -> tuple[dict[int, SampleProblem], list[tuple[int, SampleProblem]]]:
    """Samples whose bytes changed, and samples that are lost.

    A sample whose first header is damaged is found at a later one, so a sample found anywhere in
    the byte range of an indexed one is that sample.
    """
    here = sorted(sample.offset for sample in found.samples)
    changed: dict[int, SampleProblem] = {}
    lost: list[tuple[int, SampleProblem]] = []
    for row, is_intact in zip(index.samples, intact, strict=True):
        start, end = int(row["offset"]), int(row["offset"]) + int(row["length"])
        inside = here[bisect_left(here, start) : bisect_left(here, end)]
        if not inside:
            lost.append((start, _lost(start, end, len(view))))
        elif not is_intact:
            changed[inside[0]] = SampleProblem(
                "E110", "its bytes differ from those that were indexed."
            )
    return changed, lost


def _lost(start: int, end: int, size: int) -> SampleProblem:
    if end > size:
        return SampleProblem("E102", f"it was at bytes {start}..{end}, but the tar has {size}.")
    return SampleProblem("E110", f"it was at bytes {start}..{end}, where no sample is left.")
