# SPDX-License-Identifier: Apache-2.0
"""The whole pipeline on one screen: plan, read, encode, collate; and its cursor.

The plan is computed alike on every rank, in the trainer's process. Loader workers only get tasks
("these packs") and hold no state, so the batches depend neither on the number of workers nor on the
number of ranks.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from owl.config.run import DataConfig, PackConfig, SourceConfig, TemplateKind
from owl.data.encode import SampleEncoder
from owl.data.index import DATASET_FILE
from owl.data.lengths import SampleLengths
from owl.data.microbatch import (
    Fault,
    LoadedMicrobatch,
    MicrobatchReader,
    SkipBudget,
    check_loaded,
    check_skips,
)
from owl.data.plan import (
    PLAN_VERSION,
    Pack,
    Plan,
    PlannedSource,
    PlannedStep,
    share_packs,
)
from owl.data.samples import Cursor, DataReport, StepBatch
from owl.data.shards import Dataset
from owl.data.tokenizer import Tokenizer, load_tokenizer, tokenizer_problem
from owl.errors import CheckpointError, ConfigError

logger = logging.getLogger("owl")


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
        micro_batch_size: int,
        dp_rank: int,
        dp_size: int,
    ) -> None:
        self.plan = plan
        self.tokenizer = tokenizer
        self.fingerprint = dict(fingerprint)
        self._reader = reader
        self._data = data
        self._micro_batch_size = micro_batch_size
        self._dp_rank = dp_rank
        self._dp_size = dp_size

    @property
    def mean_samples_per_pack(self) -> float:
        """How many samples a pack holds, estimated from the first windows of the plan."""
        return self.plan.mean_samples_per_pack()

    @property
    def samples_per_epoch(self) -> int:
        """Samples of all sources together."""
        return self.plan.samples_per_epoch

    def steps(self, global_batch_size: int, start: Cursor | None = None) -> Iterator[StepBatch]:
        """Yield this rank's part of every global batch, for ever.

        Args:
            global_batch_size: packs per step over all ranks.
            start: where an earlier run stood; the beginning when None.

        Raises:
            ConfigError: the batch does not divide among ranks and micro-batches.
            CheckpointError: the cursor belongs to other data or settings.
            DataError: a shard changed, or too many samples have content errors.
        """
        self._check_batch(global_batch_size)
        start = self._checked_start(start)
        return self._run(global_batch_size, start)

    def _run(self, global_batch_size: int, start: Cursor) -> Iterator[StepBatch]:
        planned: deque[PlannedStep] = deque()  # steps whose micro-batches are under way
        loaded = iter(self._torch_loader(self._tasks(global_batch_size, start, planned)))
        budget = SkipBudget(self._data.max_skipped_fraction, self._data.max_skipped_samples)
        num_microbatches = global_batch_size // (self._dp_size * self._micro_batch_size)
        while True:
            begin = time.perf_counter()
            microbatches = [check_loaded(next(loaded)) for _ in range(num_microbatches)]
            waited = time.perf_counter() - begin
            for microbatch in microbatches:
                budget.count(microbatch)
            step = planned.popleft()
            yield StepBatch(
                microbatches=[microbatch.batch for microbatch in microbatches],
                cursor=step.cursor,
                report=self._report(step, microbatches, waited),
            )

    def _tasks(
        self, global_batch_size: int, start: Cursor, planned: deque[PlannedStep]
    ) -> Iterator[Sequence[Pack]]:
        """Yield this rank's micro-batches; note each step in `planned` when it is begun."""
        size = self._micro_batch_size
        for step in self.plan.steps(global_batch_size, start):
            planned.append(step)
            mine = share_packs(step.packs, self._dp_size)[self._dp_rank]
            yield from (mine[first : first + size] for first in range(0, len(mine), size))

    def _torch_loader(
        self, tasks: Iterator[Sequence[Pack]]
    ) -> DataLoader[LoadedMicrobatch | Fault]:
        return DataLoader(
            self._reader,
            batch_size=None,
            sampler=tasks,  # any iterable of what __getitem__ takes will do
            num_workers=self._data.num_workers,
            # A generator of its own: torch would otherwise draw from the global one and so change
            # dropout with the number of times a loader is made.
            generator=torch.Generator().manual_seed(self._data.seed),
        )

    def _report(
        self, step: PlannedStep, loaded: Sequence[LoadedMicrobatch], waited: float
    ) -> DataReport:
        skipped = Counter(fault.code for microbatch in loaded for fault in microbatch.skipped)
        if self._dp_rank == 0:  # every rank knows what the plan dropped; it is reported once
            skipped.update(step.dropped)
        batches = [microbatch.batch for microbatch in loaded]
        return DataReport(
            samples=sum(m.read - len(m.skipped) for m in loaded),
            text_tokens=sum(batch.num_tokens for batch in batches),
            tiles=sum(batch.num_tiles for batch in batches),
            packs=sum(microbatch.packs for microbatch in loaded),
            wait_seconds=waited,
            skipped=dict(sorted(skipped.items())),
        )

    def _check_batch(self, global_batch_size: int) -> None:
        per_forward = self._dp_size * self._micro_batch_size
        if global_batch_size < 1 or global_batch_size % per_forward:
            raise ConfigError(
                f"batch.global_batch_size={global_batch_size} must be a multiple of {per_forward}: "
                f"batch.micro_batch_size={self._micro_batch_size} on each of {self._dp_size} "
                "data-parallel rank(s)."
            )

    def _checked_start(self, start: Cursor | None) -> Cursor:
        """The cursor to start from, once it is known to belong to this plan."""
        if start is None:
            return Cursor(fingerprint=self.fingerprint)
        differences = [
            f"{name}: the checkpoint has {start.fingerprint.get(name, 'nothing')!r}, this run "
            f"{self.fingerprint.get(name, 'nothing')!r}"
            for name in sorted(start.fingerprint.keys() | self.fingerprint.keys())
            if start.fingerprint.get(name) != self.fingerprint.get(name)
        ]
        if differences:
            raise CheckpointError(
                "the data cursor belongs to other data or settings, so the stream cannot go on "
                "where it stood:\n  " + "\n  ".join(differences) + "\nRestore them, or start a new "
                "run from the weights alone with checkpoint.start_from."
            )
        return replace(start, fingerprint=self.fingerprint)


def build_loader(
    data: DataConfig,
    pack: PackConfig,
    *,
    image_size: int,
    template: TemplateKind,
    media_position_shift: int,
    micro_batch_size: int,
    dp_rank: int = 0,
    dp_size: int = 1,
) -> Loader:
    """Open the sources and make the pipeline of one data-parallel rank.

    Args:
        data: sources, tokenizer, seed, workers.
        pack: budgets.
        image_size: side of a tile, from the vision tower.
        template: the model variant's.
        media_position_shift: the model variant's.
        micro_batch_size: packs per forward.
        dp_rank: of this process; tensor- and pipeline-parallel ranks of one give the same batches.
        dp_size: data-parallel ranks.

    Raises:
        ConfigError: a folder or setting is missing; all problems at once.
        DataError: a shard is not the one that was indexed (E109), or too many samples are bad.
    """
    problems = list(data_problems(data))
    if problems:
        raise ConfigError(problems)
    tokenizer = load_tokenizer(data.tokenizer)
    encoder = SampleEncoder(tokenizer, template, image_size)
    sources = [
        open_source(name, source, data, encoder) for name, source in sorted(data.sources.items())
    ]
    return Loader(
        Plan(sources, pack, data.seed),
        MicrobatchReader(sources, encoder, media_position_shift),
        data=data,
        fingerprint=make_fingerprint(sources, encoder, pack, data.seed),
        tokenizer=tokenizer,
        micro_batch_size=micro_batch_size,
        dp_rank=dp_rank,
        dp_size=dp_size,
    )


def open_source(
    name: str, source: SourceConfig, data: DataConfig, encoder: SampleEncoder
) -> PlannedSource:
    """Open one source. Raises DataError when it is stale, or too much of it is bad."""
    dataset = Dataset.open(source.path)
    if not len(dataset):
        raise ConfigError(
            f"data.sources.{name}.path={source.path} holds no samples. Put shards there and run "
            f"python data_tools/prepare.py {source.path}"
        )
    if dataset.errors:
        code, count = dataset.errors.most_common(1)[0]
        check_skips(
            dataset.errors.total(),
            len(dataset),
            max_fraction=data.max_skipped_fraction,
            max_samples=data.max_skipped_samples,
            last=Fault(code, f"data.sources.{name} has {count} of this code.", None, None),
        )
    return PlannedSource(
        name=name,
        weight=source.weight,
        cut=source.cut if source.cut is not None else data.cut,
        dataset=dataset,
        lengths=SampleLengths(dataset, encoder),
    )


def make_fingerprint(
    sources: Sequence[PlannedSource], encoder: SampleEncoder, pack: PackConfig, seed: int
) -> dict[str, str]:
    """Name everything that the stream of packs depends on."""
    blend = {
        f"data.sources.{source.name}": f"{source.dataset.fingerprint} weight={source.weight} "
        f"cut={source.cut}"
        for source in sources
    }
    budgets = {
        f"pack.{name}": str(getattr(pack, name))
        for name in ("enabled", "text_tokens", "tiles", "window")
    }
    settings = {"plan": str(PLAN_VERSION), "data.seed": str(seed), "encoding": encoder.name}
    return blend | budgets | settings


def data_problems(data: DataConfig) -> Iterator[str]:
    """Yield a sentence for everything that keeps the data from being opened; never raises.

    The embedded demo makes its data on first use, so nothing is missing there.
    """
    if data.demo:
        return
    if not data.sources:
        yield "data.sources is empty. Name a prepared folder: data.sources.mine.path=FOLDER."
    for name, source in data.sources.items():
        yield from _source_problems(f"data.sources.{name}", source)
    if not data.tokenizer:
        yield (
            "data.tokenizer is not set. Name a folder with tokenizer.json, or with vocab.json and "
            "merges.txt."
        )
    elif problem := tokenizer_problem(Path(data.tokenizer)):
        yield (
            f"data.tokenizer={data.tokenizer}: {problem} Copy a Qwen2 tokenizer's files there, or "
            "name another folder."
        )


def _source_problems(setting: str, source: SourceConfig) -> Iterator[str]:
    folder = Path(source.path)
    if not source.weight > 0:
        yield f"{setting}.weight={source.weight} must be above 0. To leave a source out, remove it."
    if not source.path:
        yield f"{setting}.path is not set. Name a folder of prepared shards."
    elif not folder.is_dir():
        yield (
            f"{setting}.path={source.path}: there is no such folder. Correct the path, or mount "
            "the disk it is on."
        )
    elif not (folder / DATASET_FILE).is_file():
        yield (
            f"{setting}.path={source.path} holds no {DATASET_FILE}. Run python "
            f"data_tools/prepare.py {source.path}"
        )
