# SPDX-License-Identifier: Apache-2.0
"""The data pipeline: plan, read, encode, collate; and its cursor.

The plan is computed alike on every rank, in the trainer's process. Loader workers only get tasks
("these packs") and hold no state, so the batches depend neither on the number of workers nor on the
number of ranks.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch.utils.data import DataLoader

from owl.config.run import DataConfig, PackConfig
from owl.data.encode.tokenizer import Tokenizer
from owl.data.families import Reading
from owl.data.microbatch import (
    Fault,
    LoadedMicrobatch,
    MicrobatchReader,
    SkipBudget,
    SkipNames,
    Skipped,
    check_loaded,
)
from owl.data.plan.balance import share_packs
from owl.data.plan.fingerprint import make_fingerprint
from owl.data.plan.plan import (
    TILE_COST,
    Pack,
    Plan,
    PlannedStep,
    imbalance,
    predicted_cost,
)
from owl.data.plan.resume import Stream, checked_start
from owl.data.samples import Cursor, DataReport, PackedBatch, StepBatch
from owl.data.sources import open_sources
from owl.errors import ConfigError

logger = logging.getLogger("owl")

ShareSkips = Callable[[list[Skipped]], list[Skipped]]
"""Shares what was skipped from each micro-batch of a step with the ranks of one replica: takes what
this rank skipped, returns what the rank that reads the pixels did."""

GatherFaults = Callable[[list[Fault]], list[Fault]]
"""Gathers what each data-parallel rank skipped in a step: takes this rank's, returns all ranks'."""


@dataclass(frozen=True, slots=True)
class RankStep:
    """A step, and this rank's part of it."""

    planned: PlannedStep
    microbatches: Sequence[Sequence[Pack]]
    imbalance: float  # predicted, over all ranks


class Loader:
    """Endless steps of one data-parallel rank. Made by build_loader."""

    def __init__(
        self,
        plan: Plan,
        reader: MicrobatchReader,
        *,
        data: DataConfig,
        fingerprint: Mapping[str, str],
        tokenizer: Tokenizer,
        reading: Reading,
        micro_batch_size: int,
        dp_rank: int,
        dp_size: int,
        tile_cost: float = TILE_COST,
        share_skips: ShareSkips | None = None,
        gather_faults: GatherFaults | None = None,
    ) -> None:
        self.plan = plan
        self.tile_cost = tile_cost
        self.tokenizer = tokenizer
        self.reading = reading
        self.fingerprint = dict(fingerprint)
        self._reader = reader
        self._data = data
        self._micro_batch_size = micro_batch_size
        self._dp_rank = dp_rank
        self._dp_size = dp_size
        self._share_skips = share_skips
        self._gather_faults = gather_faults or (lambda mine: mine)

    @property
    def mean_samples_per_pack(self) -> float:
        """How many samples a pack holds, estimated from the first windows of the plan."""
        return self.plan.mean_samples_per_pack()

    @property
    def samples_per_epoch(self) -> int:
        """Samples of all sources together."""
        return self.plan.samples_per_epoch

    def steps(
        self,
        global_batch_size: int,
        start: Cursor | None = None,
        *,
        samples_per_step: int | None = None,
    ) -> Iterator[StepBatch]:
        """Yield this rank's part of every global batch, endlessly.

        Args:
            global_batch_size: packs per step over all ranks.
            start: where an earlier run stopped; the beginning when None.
            samples_per_step: what the size was chosen for, if the user did not set it: goes into
                the cursor, so that a resumed run keeps the size (owl.data.open_run).

        Raises:
            ConfigError: the batch does not divide among ranks and micro-batches.
            CheckpointError: the cursor belongs to other data, settings or global batches.
            DataError: a shard changed, or too many samples have content errors.
        """
        self._check_batch(global_batch_size)
        stream = Stream(
            fingerprint=self.fingerprint,
            windows_per_epoch=self.plan.windows_per_epoch,
            packs_per_step=global_batch_size,
            samples_per_step=samples_per_step,
            per_forward=self._dp_size * self._micro_batch_size,
        )
        return self._run(global_batch_size, checked_start(start, stream, self._data.on_change))

    def _run(self, global_batch_size: int, start: Cursor) -> Iterator[StepBatch]:
        pending: deque[RankStep] = deque()  # steps whose micro-batches are being loaded
        loaded = iter(self._torch_loader(self._tasks(global_batch_size, start, pending)))
        names = SkipNames()
        budget = SkipBudget(
            self._data.max_skipped_fraction, self._data.max_skipped_samples, start.skips
        )
        num_microbatches = global_batch_size // (self._dp_size * self._micro_batch_size)
        while True:
            begin = time.perf_counter()
            microbatches = [check_loaded(next(loaded)) for _ in range(num_microbatches)]
            waited = time.perf_counter() - begin
            step = pending.popleft()
            microbatches = self._reconcile(step.microbatches, microbatches)
            mine = [fault for m in microbatches for fault in m.skipped.values()]
            names.log_new(mine)
            faults = self._gather_faults(mine)
            budget.count(self._samples_of_sources(step.planned), faults)
            yield StepBatch(
                microbatches=[microbatch.batch for microbatch in microbatches],
                cursor=replace(step.planned.cursor, skips=budget.counted),
                report=self._report(step, microbatches, faults, waited),
            )

    def load(self, microbatches: Sequence[Sequence[Pack]]) -> list[PackedBatch]:
        """Load micro-batches beside the stream of steps; every rank of a replica calls this.

        Args:
            microbatches: packs of each; without packs it is one token that teaches nothing.
        """
        loaded = [check_loaded(self._reader.load(packs, {})) for packs in microbatches]
        return [one.batch for one in self._reconcile(microbatches, loaded)]

    def _reconcile(
        self, planned: Sequence[Sequence[Pack]], microbatches: list[LoadedMicrobatch]
    ) -> list[LoadedMicrobatch]:
        """Leave out what the rank that decodes the pictures could not use.

        All ranks of a replica must hold the same rows. A bad picture is only found where it is
        decoded, so the other ranks are informed here and reload the micro-batch without its sample.
        """
        if self._share_skips is None:
            return microbatches
        skipped = self._share_skips([microbatch.skipped for microbatch in microbatches])
        return [
            mine if mine.skipped == theirs else check_loaded(self._reader.load(packs, theirs))
            for mine, theirs, packs in zip(microbatches, skipped, planned, strict=True)
        ]

    def _tasks(
        self, global_batch_size: int, start: Cursor, pending: deque[RankStep]
    ) -> Iterator[Sequence[Pack]]:
        """Yield this rank's micro-batches; record each step in `pending` when it begins."""
        size = self._micro_batch_size
        for planned in self.plan.steps(global_batch_size, start):
            shares = self.shares(planned)
            mine = shares[self._dp_rank]
            microbatches = [mine[first : first + size] for first in range(0, len(mine), size)]
            loads = [sum(predicted_cost(pack, self.tile_cost) for pack in s) for s in shares]
            pending.append(RankStep(planned, microbatches, imbalance(loads)))
            yield from microbatches

    def shares(self, planned: PlannedStep) -> list[list[Pack]]:
        """Packs of each data-parallel rank."""
        return share_packs(planned.packs, self._dp_size, self.tile_cost)

    def _torch_loader(
        self, tasks: Iterator[Sequence[Pack]]
    ) -> DataLoader[LoadedMicrobatch | Fault]:
        return DataLoader(
            self._reader,
            batch_size=None,
            sampler=tasks,  # any iterable of arguments for __getitem__
            num_workers=self._data.num_workers,
            prefetch_factor=self._data.prefetch if self._data.num_workers else None,
            pin_memory=torch.cuda.is_available(),
            # A separate generator: otherwise torch draws from the global one, and dropout would
            # depend on how many loaders were made.
            generator=torch.Generator().manual_seed(self._data.seed),
        )

    def _samples_of_sources(self, planned: PlannedStep) -> Counter[str]:
        samples = (sample for pack in planned.packs for sample in pack)
        return Counter(self.plan.sources[sample.source].name for sample in samples)

    def _report(
        self,
        step: RankStep,
        loaded: Sequence[LoadedMicrobatch],
        faults: Sequence[Fault],
        waited: float,
    ) -> DataReport:
        skipped = Counter(fault.code for fault in faults)
        skipped.update(step.planned.dropped)
        text_tokens = sum(microbatch.batch.num_tokens for microbatch in loaded)
        tiles = sum(microbatch.batch.num_tiles for microbatch in loaded)
        planned = [sample for pack in step.planned.packs for sample in pack]
        sources = self._samples_of_sources(step.planned)
        shortened = Counter(s.excerpt.code for s in planned if s.excerpt.code)
        return DataReport(
            samples=sum(microbatch.samples for microbatch in loaded),
            text_tokens=text_tokens,
            tiles=tiles,
            packs=sum(microbatch.packs for microbatch in loaded),
            wait_seconds=waited,
            skipped=dict(sorted(skipped.items())),
            work=text_tokens + self.tile_cost * tiles,
            read_retries=sum(microbatch.retries for microbatch in loaded),
            imbalance=step.imbalance,
            source_samples={source.name: sources[source.name] for source in self.plan.sources},
            shortened=dict(sorted(shortened.items())),
        )

    def _check_batch(self, global_batch_size: int) -> None:
        per_forward = self._dp_size * self._micro_batch_size
        if global_batch_size < 1 or global_batch_size % per_forward:
            raise ConfigError(
                f"batch.global_batch_size={global_batch_size} must be a multiple of {per_forward}: "
                f"batch.micro_batch_size={self._micro_batch_size} on each of {self._dp_size} "
                "data-parallel rank(s)."
            )


def build_loader(
    data: DataConfig,
    pack: PackConfig,
    *,
    reading: Reading,
    micro_batch_size: int,
    dp_rank: int = 0,
    dp_size: int = 1,
    tile_cost: float = TILE_COST,
    read_pixels: bool = True,
    share_skips: ShareSkips | None = None,
    gather_faults: GatherFaults | None = None,
) -> Loader:
    """Open the sources and make the pipeline of one data-parallel rank.

    Args:
        data: sources, tokenizer, seed, workers.
        pack: budgets.
        reading: how the model's family reads samples.
        micro_batch_size: packs per forward.
        dp_rank: of this process; tensor- and pipeline-parallel ranks of one give the same batches.
        dp_size: data-parallel ranks.
        tile_cost: text tokens that one tile weighs, unless pack.tile_cost is set.
        read_pixels: False for a rank that encodes no pictures (a later pipeline stage). All else in
            its batches is the same; pixel_values is [0, 3, s, s].
        share_skips: informs such a rank of samples whose pictures are damaged. Called once a
            step, on every rank of the replica.
        gather_faults: shares what each data-parallel rank skipped, so that all end the
            run at the same step. Called once a step, on every rank.

    Raises:
        ConfigError: a folder or setting is missing; all problems at once.
        DataError: a shard is not the one that was indexed (E109), or too many samples are bad.
    """
    opened = open_sources(data, reading)
    return Loader(
        Plan(opened.sources, pack, data.seed),
        MicrobatchReader(opened.sources, read_pixels=read_pixels),
        data=data,
        fingerprint=make_fingerprint(opened.sources, pack, data, opened.quarantine),
        tokenizer=opened.tokenizer,
        reading=reading,
        micro_batch_size=micro_batch_size,
        dp_rank=dp_rank,
        dp_size=dp_size,
        tile_cost=pack.tile_cost if pack.tile_cost is not None else tile_cost,
        share_skips=share_skips,
        gather_faults=gather_faults,
    )
