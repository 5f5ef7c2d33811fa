# SPDX-License-Identifier: Apache-2.0
"""One micro-batch: read, encode, collate; and what to do with a sample that cannot be used.

Only errors that lie in a sample's content may be skipped, because they are the same on every read
and every rank. The sample leaves its pack, which keeps its place in the stream.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from torch.utils.data import Dataset as TorchDataset

from owl.data.collate import collate, empty_sample
from owl.data.encode import SampleEncoder
from owl.data.plan import Pack, PlannedSample, PlannedSource
from owl.data.samples import EncodedSample, PackedBatch
from owl.errors import DataError

logger = logging.getLogger("owl")

CONTENT_ERRORS = ("E2", "E3")
"""Codes that lie in the sample itself: the same on every rank and every read, so it may be skipped.
Anything else (a changed shard, a failing disk) ends the run."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What a DataError says, in a form that survives the way out of a worker process."""

    code: str
    message: str
    shard: str | None
    key: str | None

    @classmethod
    def of(cls, error: DataError) -> "Fault":
        """Take an error apart."""
        return cls(error.code, error.message, error.shard, error.key)

    def error(self) -> DataError:
        """Put it together again."""
        return DataError(self.code, self.message, shard=self.shard, key=self.key)


@dataclass(frozen=True, slots=True)
class LoadedMicrobatch:
    """A micro-batch and what was skipped on the way to it."""

    batch: PackedBatch
    packs: int
    read: int  # samples, skipped ones included
    skipped: Sequence[Fault]


class MicrobatchReader(TorchDataset[LoadedMicrobatch | Fault]):
    """Turns the packs of a micro-batch into tensors; "index" is the tuple of packs itself."""

    def __init__(
        self, sources: Sequence[PlannedSource], encoder: SampleEncoder, media_position_shift: int
    ) -> None:
        self._datasets = [source.dataset for source in sources]
        self._names = [source.name for source in sources]
        self._encoder = encoder
        self._media_position_shift = media_position_shift

    def __getitem__(self, packs: Sequence[Pack]) -> LoadedMicrobatch | Fault:
        """Read, decode and collate. A fault that ends the run is returned, not raised.

        torch rebuilds a worker's exception from its text alone, which would lose code and shard.
        """
        planned = [sample for pack in packs for sample in pack]
        samples: list[EncodedSample] = []
        skipped: list[Fault] = []
        for sample in planned:
            try:
                samples.append(self._load(sample))
            except DataError as error:
                fault = Fault.of(error)
                if not fault.code.startswith(CONTENT_ERRORS):
                    return fault
                skipped.append(fault)
        if not samples:
            samples = [empty_sample(self._encoder.tokenizer.end_of_text, self._encoder.image_size)]
        batch = collate(samples, media_position_shift=self._media_position_shift)
        return LoadedMicrobatch(batch, len(packs), len(planned), skipped)

    def _load(self, sample: PlannedSample) -> EncodedSample:
        raw = self._datasets[sample.source].read(sample.index)
        try:
            return self._encoder.encode(raw, source=self._names[sample.source], cut=sample.cut)
        except DataError as error:
            raise DataError(error.code, error.message, shard=raw.shard, key=raw.key) from error


class SkipBudget:
    """Counts skipped samples, names each once, and ends the run when there are too many."""

    def __init__(self, max_fraction: float, max_samples: int) -> None:
        self._max_fraction = max_fraction
        self._max_samples = max_samples
        self._read = 0
        self._skipped = 0
        self._named: set[tuple[str | None, str | None]] = set()

    def count(self, loaded: LoadedMicrobatch) -> None:
        """Add one micro-batch. Raises DataError when the budget is spent."""
        self._read += loaded.read
        self._skipped += len(loaded.skipped)
        for fault in loaded.skipped:
            if (fault.shard, fault.key) not in self._named:
                self._named.add((fault.shard, fault.key))
                logger.warning("skipped: %s", fault.error())
        if loaded.skipped:
            check_skips(
                self._skipped,
                self._read,
                max_fraction=self._max_fraction,
                max_samples=self._max_samples,
                last=loaded.skipped[-1],
            )


def check_skips(
    skipped: int, read: int, *, max_fraction: float, max_samples: int, last: Fault
) -> None:
    """Raise DataError when too many samples have content errors."""
    if skipped <= max_samples or skipped <= max_fraction * read:
        return
    raise DataError(
        last.code,
        f"{skipped} of {read} samples have content errors: more than "
        f"data.max_skipped_fraction={max_fraction} and data.max_skipped_samples={max_samples} "
        f"allow. The last one: {last.message} Run python data_tools/prepare.py on the folder to "
        "see them all, or raise the two settings.",
        shard=last.shard,
        key=last.key,
    )


def check_loaded(loaded: LoadedMicrobatch | Fault) -> LoadedMicrobatch:
    """Raise the fault that ended a micro-batch, if one did."""
    if isinstance(loaded, Fault):
        raise loaded.error()
    return loaded
