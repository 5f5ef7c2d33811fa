# SPDX-License-Identifier: Apache-2.0
"""One micro-batch: read, encode, collate; and what to do with a sample that cannot be used.

Only content errors may be skipped, because they are the same on every read and every rank. The
sample is removed from its pack, and the pack keeps its place in the stream.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from owl.data.collate import collate
from owl.data.plan.plan import Pack, PlannedSample, PlannedSource
from owl.data.samples import EncodedSample, PackedBatch
from owl.errors import DataError

logger = logging.getLogger("owl")

CONTENT_ERRORS = ("E2", "E3")
"""Codes of the sample's own content: the same on every rank and every read, so it may be skipped.
Anything else (a changed shard, a failing disk) ends the run."""


SPAN = 10_000
"""Samples of a source after which SkipBudget starts to drop old counts."""

READ_FAILED = ""
"""Replaces the code of a fault when a read failed (OSError)."""


@dataclass(frozen=True, slots=True)
class Fault:
    """An error in a form that a worker process can return."""

    code: str
    message: str
    shard: str | None
    key: str | None
    source: str = ""

    @classmethod
    def of(cls, error: DataError | OSError, source: str = "") -> "Fault":
        """Convert an error."""
        if isinstance(error, DataError):
            return cls(error.code, error.message, error.shard, error.key, source)
        return cls(READ_FAILED, str(error), None, None, source)

    def error(self) -> DataError | OSError:
        """Convert back to an error."""
        if self.code == READ_FAILED:
            return OSError(self.message)
        return DataError(self.code, self.message, shard=self.shard, key=self.key)


Skipped = Mapping[int, Fault]
"""What was skipped from a micro-batch: place among its planned samples -> why."""


@dataclass(frozen=True, slots=True)
class LoadedMicrobatch:
    """A micro-batch and what was skipped on the way to it."""

    batch: PackedBatch
    packs: int
    read: Mapping[str, int]  # source -> samples, skipped ones included
    skipped: Skipped = field(default_factory=dict)
    retries: int = 0  # reads that had to be repeated

    @property
    def samples(self) -> int:
        """Samples that are in the batch."""
        return sum(self.read.values()) - len(self.skipped)

    def pin_memory(self) -> "LoadedMicrobatch":
        """Copy the tensors to pinned memory for async copies (called by torch's DataLoader)."""
        pinned: dict[str, Any] = {
            name: value.pin_memory()
            for name in self.batch.__dataclass_fields__
            if isinstance(value := getattr(self.batch, name), Tensor)
        }
        return replace(self, batch=replace(self.batch, **pinned))


class MicrobatchReader(TorchDataset[LoadedMicrobatch | Fault]):
    """Turns the packs of a micro-batch into tensors; its "index" is the tuple of packs.

    Args:
        sources: where the samples are, and how each is encoded.
        read_pixels: False reads and decodes no picture: pixel_values is [0, 3, s, s].
    """

    def __init__(
        self,
        sources: Sequence[PlannedSource],
        *,
        read_pixels: bool = True,
    ) -> None:
        self._datasets = [source.dataset for source in sources]
        self._names = [source.name for source in sources]
        self._encoders = [source.lengths.encoder for source in sources]
        self.read_pixels = read_pixels

    def __getitem__(self, packs: Sequence[Pack]) -> LoadedMicrobatch | Fault:
        """Read, decode and collate. A fault that ends the run is returned, not raised.

        torch rebuilds a worker's exception from its text alone, which would lose code and shard.
        """
        return self.load(packs, {})

    def load(self, packs: Sequence[Pack], skipped: Skipped) -> LoadedMicrobatch | Fault:
        """Load a micro-batch without the samples that are known to be bad, and any others."""
        planned = [sample for pack in packs for sample in pack]
        samples: list[EncodedSample] = []
        skipped = dict(skipped)
        retries = -self._retries()
        for place, sample in enumerate(planned):
            if place in skipped:
                continue
            try:
                samples.append(self._load(sample))
            except (DataError, OSError) as error:
                fault = Fault.of(error, self._names[sample.source])
                if not fault.code.startswith(CONTENT_ERRORS):
                    return fault
                skipped[place] = fault
        return LoadedMicrobatch(
            self._collate(samples),
            packs=len(packs),
            read=Counter(self._names[sample.source] for sample in planned),
            skipped=skipped,
            retries=retries + self._retries(),
        )

    def _collate(self, samples: list[EncodedSample]) -> PackedBatch:
        return collate(samples or [self._encoders[0].empty()], with_pixels=self.read_pixels)

    def _load(self, planned: PlannedSample) -> EncodedSample:
        dataset, encoder = self._datasets[planned.source], self._encoders[planned.source]
        source = self._names[planned.source]
        if not self.read_pixels:
            raw = dataset.read_text(planned.index)
            return encoder.encode_text(raw, source=source, cut=planned.cut, excerpt=planned.excerpt)
        raw = dataset.read(planned.index)
        try:
            return encoder.encode(raw, source=source, cut=planned.cut, excerpt=planned.excerpt)
        except DataError as error:
            raise DataError(error.code, error.message, shard=raw.shard, key=raw.key) from error

    def _retries(self) -> int:
        return sum(dataset.retries for dataset in self._datasets)


class SkipBudget:
    """Counts skipped samples of each source, and ends the run when there are too many.

    Counted over all ranks and kept in the cursor, so that neither the layout nor a restart changes
    when a run ends. So that a long run does not make up for a bad stretch, only the last SPAN
    to 2 x SPAN samples of each source count.

    Args:
        max_fraction: data.max_skipped_fraction.
        max_samples: data.max_skipped_samples.
        counted: what an earlier run left in its cursor.
    """

    def __init__(
        self, max_fraction: float, max_samples: int, counted: Mapping[str, Sequence[int]]
    ) -> None:
        self._max_fraction = max_fraction
        self._max_samples = max_samples
        self._counts = {source: list(numbers) for source, numbers in counted.items()}

    @property
    def counted(self) -> dict[str, list[int]]:
        """Source -> samples and skips of the span before, samples and skips of this one."""
        return {source: list(numbers) for source, numbers in self._counts.items()}

    def count(self, planned: Mapping[str, int], faults: Sequence[Fault]) -> None:
        """Add one global batch.

        Args:
            planned: samples of each source in it.
            faults: of all data-parallel ranks.

        Raises:
            DataError: the budget is spent.
        """
        skipped = Counter(fault.source for fault in faults)
        for source, samples in planned.items():
            numbers = self._counts.setdefault(source, [0, 0, 0, 0])
            numbers[2] += samples
            numbers[3] += skipped[source]
        for last in {fault.source: fault for fault in faults}.values():
            before, skipped_before, now, skipped_now = self._counts[last.source]
            check_skips(
                skipped_before + skipped_now,
                before + now,
                max_fraction=self._max_fraction,
                max_samples=self._max_samples,
                last=last,
            )
        for numbers in self._counts.values():
            if numbers[2] >= SPAN:
                numbers[:] = [*numbers[2:], 0, 0]


class SkipNames:
    """Logs each skipped sample of this rank once, however often it comes."""

    def __init__(self) -> None:
        self._named: set[tuple[str, str | None, str | None]] = set()

    def log_new(self, faults: Sequence[Fault]) -> None:
        """Log those that were not logged before."""
        for fault in faults:
            sample = (fault.source, fault.shard, fault.key)
            if sample not in self._named:
                self._named.add(sample)
                logger.warning("skipped: %s", fault.error())


def check_skips(
    skipped: int, read: int, *, max_fraction: float, max_samples: int, last: Fault
) -> None:
    """Raise DataError when too many samples of a source have content errors."""
    if skipped <= max_samples or skipped <= max_fraction * read:
        return
    raise DataError(
        last.code,
        f"{skipped} of {read} samples of data.sources.{last.source} have content errors: more than "
        f"data.max_skipped_fraction={max_fraction} and data.max_skipped_samples={max_samples} "
        f"allow. The last one: {last.message} Run owl data prepare on the folder to "
        "see them all, or raise the two settings.",
        shard=last.shard,
        key=last.key,
    )


def check_loaded(loaded: LoadedMicrobatch | Fault) -> LoadedMicrobatch:
    """Raise the fault that ended a micro-batch, if one did."""
    if isinstance(loaded, Fault):
        raise loaded.error()
    return loaded
