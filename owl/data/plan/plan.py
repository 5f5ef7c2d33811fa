# SPDX-License-Identifier: Apache-2.0
"""Which samples make which pack, and which packs make which step: functions of (seed, position).

Nothing here keeps state between calls. An epoch is a fixed list of windows, a window a
fixed list of packs, and a step the next `global_batch_size` packs of that stream; ranks and loader
workers only decide who computes what. So a cursor of three numbers resumes training anywhere, on
any number of ranks.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from owl.config.run import CutPolicy, OversizePolicy, PackConfig
from owl.data.encode.encoder import COMPLETE, SampleMeter
from owl.data.encode.oversize import Excerpt, Fitted, Shortener
from owl.data.plan.lengths import SampleLengths
from owl.data.plan.mixture import epoch_quotas, repeated_quotas, taken_before
from owl.data.plan.packing import pack_window
from owl.data.rng import generator
from owl.data.samples import Cursor
from owl.data.shards.dataset import Dataset
from owl.data.shown import CutChoice, choose_cut
from owl.errors import ConfigError, DataError

PLAN_VERSION = 1
"""Raised when the same settings would give other packs: it is part of the cursor's fingerprint."""

GROUP_SAMPLES = 100_000
"""Shards are shuffled in groups of about this many samples, so that memory and, on a network disk,
the set of files in use stay bounded."""

TILE_COST = 26.0
"""Text tokens that one tile weighs when packs are shared among ranks and the model is not known
(it is that of Owl3's 7B decoder that does not learn, with a frozen tower)."""

ESTIMATE_WINDOWS = 4
"""Windows that mean_samples_per_pack looks at."""

QUARANTINED = "quarantine"
"""Replaces the error code for samples that data.quarantine leaves out."""

SHORTENED_KEPT = 8192
"""Oversize samples whose excerpts are remembered, so that an epoch finds them once."""


@dataclass(frozen=True, slots=True)
class PlannedSample:
    """One sample to be read: where it is, how it is cut, how long it will be."""

    source: int
    epoch: int  # pass over the source
    index: int  # sample number within the source
    cut: CutChoice
    tokens: int
    tiles: int
    excerpt: Excerpt = COMPLETE  # which part of it


Pack = tuple[PlannedSample, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """The packs of one window, and the samples that it could not use."""

    packs: Sequence[Pack]
    dropped: Mapping[str, int]  # error code -> samples
    samples: int  # kept and dropped
    largest: tuple[int, int]  # text tokens of the longest sample, tiles of that with the most


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One global batch."""

    packs: Sequence[Pack]
    cursor: Cursor  # after the step
    dropped: Mapping[str, int] = field(default_factory=dict)  # in windows entered by this step


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSource:
    """A source as the plan sees it."""

    name: str
    weight: float
    cut: CutPolicy
    dataset: Dataset
    lengths: SampleLengths
    epochs: float | None = None  # passes over it in an epoch of the blend, instead of the weight
    oversize: OversizePolicy = OversizePolicy.drop
    allowed_codes: frozenset[str] = frozenset()  # codes of invalid samples that are used anyway
    left_out: frozenset[int] = frozenset()  # samples that data.quarantine names
    held_out: float = 0.0  # the share that is evaluated, not trained on
    reserved: NDArray[np.bool_] | None = None  # samples of the other part, which this plan skips

    @property
    def share(self) -> str:
        """Its part of the blend, as it is set."""
        return f"weight={self.weight}" if self.epochs is None else f"epochs={self.epochs}"

    def choose_cut(self, seed: int, epoch: int, index: int) -> CutChoice:
        """Which pictures of one sample are cut in a pass over the source."""
        return choose_cut(
            self.cut,
            published_share=self.lengths.encoder.reading.published_cut_share,
            seed=seed,
            source=self.name,
            epoch=epoch,
            index=index,
        )

    def exclusion_code(self, sample: int) -> str | None:
        """Why a sample may not be used at all."""
        if sample in self.left_out:
            return QUARANTINED
        code = self.dataset.error(sample)
        return None if code in self.allowed_codes else code


class SourceOrder:
    """The shuffled order of one source: shards first, then samples within groups of shards."""

    def __init__(self, dataset: Dataset, seed: int, source: str) -> None:
        self._starts = np.asarray(dataset.starts, np.int64)
        self._key = (seed, source)
        self._groups = lru_cache(maxsize=2)(self._make_groups)
        self._group = lru_cache(maxsize=3)(self._make_group)

    def take(self, position: int, count: int) -> Iterator[tuple[int, int]]:
        """Yield (epoch, sample number) of `count` samples from `position` in the endless stream."""
        size = int(self._starts[-1])
        for place in range(position, position + count):
            epoch, rank = divmod(place, size)
            ends, _ = self._groups(epoch)
            group = int(np.searchsorted(ends, rank, side="right"))
            first = int(ends[group - 1]) if group else 0
            yield epoch, int(self._group(epoch, group)[rank - first])

    def _make_groups(self, epoch: int) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
        """Ends of the groups in the epoch's order, and the shards of each group."""
        shards = generator("shards", *self._key, epoch).permutation(len(self._starts) - 1)
        sizes = np.diff(self._starts)[shards]
        ends = np.cumsum(sizes)
        group_of = (ends - sizes) // GROUP_SAMPLES  # by where the shard begins
        _, firsts = np.unique(group_of, return_index=True)
        groups = np.split(shards, firsts[1:])
        return ends[[*(firsts[1:] - 1), -1]], groups

    def _make_group(self, epoch: int, group: int) -> NDArray[np.int64]:
        """Samples of one group, shuffled."""
        shards = self._groups(epoch)[1][group]
        samples = [np.arange(self._starts[shard], self._starts[shard + 1]) for shard in shards]
        return generator("samples", *self._key, epoch, group).permutation(np.concatenate(samples))


class Plan:
    """The endless stream of packs.

    Args:
        sources: what is blended.
        pack: budgets and window.
        seed: `data.seed`.
    """

    def __init__(self, sources: Sequence[PlannedSource], pack: PackConfig, seed: int) -> None:
        self.sources = list(sources)
        self._pack = pack
        self._seed = seed
        self._quotas = blend_quotas(self.sources)
        self.samples_per_epoch = sum(self._quotas)
        self.windows_per_epoch = -(-self.samples_per_epoch // pack.window)
        self._check_quotas()
        self._orders = [SourceOrder(source.dataset, seed, source.name) for source in sources]
        self._excerpts = lru_cache(maxsize=SHORTENED_KEPT)(self._find_excerpts)
        # mean_samples_per_pack looks at the first windows, which training then begins with.
        self.window = lru_cache(maxsize=ESTIMATE_WINDOWS + 1)(self._make_window)
        """(epoch, window) -> Window."""

    def _check_quotas(self) -> None:
        problems = [
            f"data.sources.{source.name}.{source.share} gives it no sample in an epoch of "
            f"{self.samples_per_epoch}. Raise it, or remove the source."
            for source, quota in zip(self.sources, self._quotas, strict=True)
            if not quota
        ]
        if problems:
            raise ConfigError(problems)

    def steps(self, global_batch_size: int, start: Cursor) -> Iterator[PlannedStep]:
        """Yield global batches from a cursor on, endlessly.

        A batch that an epoch cannot fill continues with the next epoch's packs: none is lost, and
        none is padded.
        """
        packs: list[Pack] = []
        dropped: Counter[str] = Counter()
        cursor = start
        for pack, cursor, dropped_here in self.stream(start):
            packs.append(pack)
            dropped.update(dropped_here)
            if len(packs) == global_batch_size:
                yield PlannedStep(packs, cursor, dict(sorted(dropped.items())))
                packs, dropped = [], Counter()

    def stream(self, start: Cursor) -> Iterator[tuple[Pack, Cursor, Mapping[str, int]]]:
        """Yield each pack, the cursor after it, and what was dropped on the way to it."""
        epoch, number, first = start.epoch, start.window, start.pack
        packs_consumed, samples_consumed = start.packs_consumed, start.samples_consumed
        dropped: Counter[str] = Counter()
        empty_windows = 0
        while True:
            window = self.window(epoch, number)
            if first == 0:
                dropped.update(window.dropped)
            empty_windows = 0 if window.packs else empty_windows + 1
            self._check_progress(empty_windows, dropped)
            for place, pack in enumerate(window.packs[first:], start=first + 1):
                packs_consumed += 1
                samples_consumed += len(pack)
                cursor = replace(
                    start,
                    epoch=epoch,
                    window=number,
                    pack=place,
                    packs_consumed=packs_consumed,
                    samples_consumed=samples_consumed,
                )
                yield pack, cursor, dropped
                dropped = Counter()
            first, number = 0, number + 1
            if number == self.windows_per_epoch:
                epoch, number = epoch + 1, 0

    def mean_samples_per_pack(self, windows: int = ESTIMATE_WINDOWS) -> float:
        """Estimate from the first windows; 1 with packing off."""
        if not self._pack.enabled:
            return 1.0
        count = min(windows, self.windows_per_epoch)
        packs = [pack for number in range(count) for pack in self.window(0, number).packs]
        return sum(map(len, packs)) / len(packs) if packs else 1.0

    def _check_progress(self, empty_windows: int, dropped: Mapping[str, int]) -> None:
        if empty_windows < self.windows_per_epoch:
            return
        code = max(dropped, key=lambda code: dropped[code], default="E401")
        raise DataError(
            code,
            f"an entire epoch of {self.samples_per_epoch} samples gave no pack; dropped: "
            f"{dict(dropped)}. Raise pack.text_tokens={self._pack.text_tokens} (E401) or "
            f"pack.tiles={self._pack.tiles} (E402), or correct the samples that prepare.py names.",
        )

    def _make_window(self, epoch: int, number: int) -> Window:
        dropped: Counter[str] = Counter()
        kept: list[PlannedSample] = []
        places = list(self._window_places(epoch, number))
        tokens = tiles = 0
        for source, own_epoch, index in places:
            samples, lost, size = self._plan_sample(source, own_epoch, index)
            kept += samples
            dropped.update(lost)
            tokens, tiles = max(tokens, size[0]), max(tiles, size[1])
        packs = self._make_packs(kept)
        order = generator("packs", self._seed, epoch, number).permutation(len(packs))
        return Window([packs[place] for place in order], dropped, len(places), (tokens, tiles))

    def _window_places(self, epoch: int, number: int) -> Iterator[tuple[int, int, int]]:
        """Yield source, pass over it, and sample number for all of a window but the reserved."""
        size = self.samples_per_epoch
        begin = min(number * self._pack.window, size)
        end = min(begin + self._pack.window, size)
        for source, (quota, order) in enumerate(zip(self._quotas, self._orders, strict=True)):
            first = taken_before(quota, begin, size)
            count = taken_before(quota, end, size) - first
            reserved = self.sources[source].reserved
            for own_epoch, index in order.take(epoch * quota + first, count):
                if reserved is None or not reserved[index]:
                    yield source, own_epoch, index

    def _plan_sample(
        self, source: int, epoch: int, index: int
    ) -> tuple[list[PlannedSample], Mapping[str, int], tuple[int, int]]:
        """Plan one sample: itself, excerpts of it, or the code for which it is dropped.

        The last value is its size; (0, 0) for one that may not be used.
        """
        chosen = self.sources[source]
        exclusion_code = chosen.exclusion_code(index)
        if exclusion_code:
            return [], {exclusion_code: 1}, (0, 0)
        cut = chosen.choose_cut(self._seed, epoch, index)
        size = tokens, tiles = chosen.lengths.of(index, cut)
        code = self.over_budget(tokens, tiles)
        if code is None:
            return [PlannedSample(source, epoch, index, cut, tokens, tiles)], {}, size
        if chosen.oversize == OversizePolicy.drop:
            return [], {code: 1}, size
        fitted, lost = self._excerpts(source, index, cut, code)
        parts = [
            PlannedSample(source, epoch, index, cut, part.tokens, part.tiles, part.excerpt)
            for part in fitted
        ]
        return parts, lost, size

    def _find_excerpts(
        self, source: int, index: int, cut: CutChoice, code: str
    ) -> tuple[list[Fitted], Mapping[str, int]]:
        chosen = self.sources[source]
        raw = chosen.dataset.read_text(index)
        meter = SampleMeter(chosen.lengths.encoder, raw.document, raw.sizes)
        shortener = Shortener(
            raw.document,
            partial(meter.measure, cut),
            meter.token_ends,
            max_tokens=self._pack.text_tokens,
            max_tiles=self._pack.tiles,
            code=code,
        )
        return shortener.shorten(chosen.oversize)

    def over_budget(self, tokens: int, tiles: int) -> str | None:
        """Code of the budget that a sample of this size exceeds."""
        if tokens > self._pack.text_tokens:
            return "E401"
        return "E402" if tiles > self._pack.tiles else None

    def _make_packs(self, samples: Sequence[PlannedSample]) -> list[Pack]:
        if not self._pack.enabled:
            return [(sample,) for sample in samples]
        packs = pack_window(
            np.array([sample.tokens for sample in samples], np.int64),
            np.array([sample.tiles for sample in samples], np.int64),
            max_tokens=self._pack.text_tokens,
            max_tiles=self._pack.tiles,
        )
        return [tuple(samples[index] for index in pack) for pack in packs]


def blend_quotas(sources: Sequence[PlannedSource]) -> list[int]:
    """Samples of each source in an epoch of the blend: by its epochs if set, else by weight."""
    sizes = [len(source.dataset) for source in sources]
    epochs = [source.epochs for source in sources if source.epochs is not None]
    if epochs:
        return repeated_quotas(epochs, sizes)
    return epoch_quotas([source.weight for source in sources], sum(sizes))


def predicted_cost(pack: Pack, tile_cost: float = TILE_COST) -> float:
    """Work that a pack is, in text tokens: those it has, and `tile_cost` for each tile."""
    return sum(sample.tokens + tile_cost * sample.tiles for sample in pack)


def imbalance(loads: Sequence[float]) -> float:
    """How much longer the busiest rank works than the average: 0 where all work equally long."""
    mean = sum(loads) / len(loads)
    return max(loads) / mean - 1 if mean else 0.0
