# SPDX-License-Identifier: Apache-2.0
"""Load the batch of a preview: the one that a rank gets at a step, or one sample alone."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from owl.config.run import DataConfig, OversizePolicy
from owl.data.loader import Loader
from owl.data.microbatch import MicrobatchReader, check_loaded
from owl.data.plan.plan import Pack, PlannedSample, PlannedSource, PlannedStep
from owl.data.samples import Cursor, PackedBatch, StepBatch
from owl.data.shards.tar import group_by_key, scan_members
from owl.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class StepChoice:
    """A micro-batch of a step, and the step."""

    batch: PackedBatch
    step: StepBatch  # of this rank
    shares: Sequence[Sequence[Pack]]  # packs of each rank
    packs: Sequence[Pack]  # of this micro-batch

    @property
    def sources(self) -> list[int]:
        """Number of each sample's source; empty (unknown) if samples were skipped."""
        planned = [sample.source for pack in self.packs for sample in pack]
        return planned if len(planned) == self.batch.num_samples else []


def load_step(
    loader: Loader,
    *,
    step: int,
    rank: int,
    microbatch: int,
    global_batch_size: int,
    micro_batch_size: int,
) -> StepChoice:
    """Load what a rank trains on at a step, without reading the steps before it.

    Args:
        loader: of this rank.
        step: counted from 1, as the training log counts.
        rank: the loader's.
        microbatch: of the rank's micro-batches in this step, counted from 0.
        global_batch_size: packs a step.
        micro_batch_size: packs a micro-batch.

    Raises:
        UsageError: there is no such micro-batch.
    """
    before, planned = _planned_step(loader, step, global_batch_size)
    loaded = next(loader.steps(global_batch_size, before))
    if not 0 <= microbatch < len(loaded.microbatches):
        raise UsageError(
            f"--microbatch {microbatch}: a rank has {len(loaded.microbatches)} micro-batch(es) a "
            "step, counted from 0. Choose one of them."
        )
    shares = loader.shares(planned)
    first = microbatch * micro_batch_size
    return StepChoice(
        batch=loaded.microbatches[microbatch],
        step=loaded,
        shares=shares,
        packs=shares[rank][first : first + micro_batch_size],
    )


def _planned_step(
    loader: Loader, step: int, global_batch_size: int
) -> tuple[Cursor | None, PlannedStep]:
    """Return the cursor before a step, and the step as planned."""
    start = Cursor(fingerprint=loader.fingerprint)
    steps = loader.plan.steps(global_batch_size, start)
    before = deque(islice(steps, step - 1), maxlen=1)
    return before[0].cursor if before else None, next(steps)


def load_sample(loader: Loader, data: DataConfig, name: str) -> tuple[PackedBatch, PlannedSample]:
    """Load one sample as a pack of its own, cut as in the first pass over its source.

    Args:
        loader: of any rank.
        data: its settings.
        name: SOURCE:NUMBER or SOURCE:KEY.

    Raises:
        UsageError: there is no such sample.
        DataError: the sample is invalid; the code is the reason.
    """
    source_name, _, which = name.partition(":")
    names = [source.name for source in loader.plan.sources]
    if source_name not in names or not which:
        raise UsageError(
            f"--sample {name} is not SOURCE:NUMBER or SOURCE:KEY. The sources are "
            f"{', '.join(names)}."
        )
    number = names.index(source_name)
    source = loader.plan.sources[number]
    index = int(which) if which.isdigit() else find_key(source, which)
    if not 0 <= index < len(source.dataset):
        raise UsageError(f"--sample {name}: the source has samples 0 to {len(source.dataset) - 1}.")
    cut = source.choose_cut(data.seed, 0, index)
    tokens, tiles = source.lengths.of(index, cut)
    planned = PlannedSample(number, 0, index, cut, tokens, tiles)
    reader = MicrobatchReader(loader.plan.sources)
    loaded = check_loaded(reader[((planned,),)])
    for skipped in loaded.skipped.values():
        raise skipped.error()
    return loaded.batch, planned


def exclusion_note(loader: Loader, sample: PlannedSample) -> str | None:
    """Return why training does not see a sample as it is shown; None if it does.

    Args:
        loader: of any rank.
        sample: not shortened, with its lengths.
    """
    source = loader.plan.sources[sample.source]
    if reason := source.exclusion_code(sample.index):
        return f"training leaves it out ({reason})"
    code = loader.plan.over_budget(sample.tokens, sample.tiles)
    if code is None:
        return None
    size = f"{sample.tokens:,} text tokens and {sample.tiles:,} tiles are more than a pack holds"
    if source.oversize == OversizePolicy.drop:
        return f"training drops it ({code}: {size}, data.oversize=drop)"
    return f"training shortens it ({code}: {size}, data.oversize={source.oversize})"


def find_key(source: PlannedSource, key: str) -> int:
    """Return the number of a sample by its key, reading tar headers until it is found.

    Raises:
        UsageError: no shard has it.
    """
    dataset = source.dataset
    for first, record in zip(dataset.starts, dataset.records, strict=False):
        view = memoryview(dataset.read_file(record.file) or b"")
        groups = group_by_key(scan_members(view, shard=record.file), shard=record.file)
        for number, group in enumerate(groups):
            if group[0].key == key:
                return first + number
    raise UsageError(
        f"--sample {source.name}:{key}: no shard of {dataset.storage.location} has that key. Give "
        "the key as owl data lint prints it, or the sample's number."
    )
