# SPDX-License-Identifier: Apache-2.0
"""Forecast what a run will get out of its data: fill, steps, balance, and better budgets.

It is computed from the plan that training follows, without decoding anything. Only windows that
were not looked at are estimated.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from owl.config.run import PackConfig
from owl.data.plan.balance import share_packs
from owl.data.plan.packing import pack_window
from owl.data.plan.plan import Pack, Plan, PlannedSample, imbalance, predicted_cost
from owl.data.plan.shares import Shares, count_shares
from owl.data.samples import Cursor

BALANCED_WITHIN = 0.05
"""No suggestion is made if the fills of the two budgets differ by less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """How well samples fill packs of given budgets."""

    text_tokens: int  # the budgets
    tiles: int
    packs: int
    text_fill: float
    tile_fill: float
    samples_per_pack: float

    @property
    def efficiency(self) -> float:
        """Least number of packs that the fuller budget allows, divided by the number of packs."""
        return max(self.text_fill, self.tile_fill)

    @property
    def binding(self) -> str:
        """The setting of the budget that runs out first."""
        return "pack.tiles" if self.tile_fill > self.text_fill else "pack.text_tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceShare:
    """The part of one source in the windows that were looked at."""

    samples: int
    text_tokens: int
    tiles: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a run gets out of its data, measured on the first windows of its first epoch."""

    windows: int  # looked at
    windows_per_epoch: int
    samples_per_epoch: int
    packed: bool
    fill: Fill
    sources: Mapping[str, SourceShare]
    shares: Shares
    longest: tuple[int, int]  # most text tokens, and most tiles, of a sample that is kept
    global_batch_size: int
    dp_size: int
    imbalances: Sequence[float]  # of each step looked at
    suggestions: Sequence[Fill]

    @property
    def packs_per_epoch(self) -> int:
        """Packs of an epoch, extrapolated from the windows that were looked at."""
        return round(self.fill.packs * self.windows_per_epoch / self.windows)

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps of an epoch."""
        return self.packs_per_epoch / self.global_batch_size


def forecast(
    plan: Plan,
    pack: PackConfig,
    *,
    global_batch_size: int,
    dp_size: int,
    tile_cost: float,
    max_samples: int,
) -> Forecast:
    """Forecast a run from the first windows of its plan.

    Args:
        plan: of the run.
        pack: its budgets.
        global_batch_size: packs a step.
        dp_size: ranks that the packs of a step are dealt to; divides global_batch_size.
        tile_cost: text tokens that a tile weighs.
        max_samples: look at about this many samples, and at least at one window.
    """
    count = min(plan.windows_per_epoch, max(1, max_samples // pack.window))
    windows = [plan.window(0, number) for number in range(count)]
    packs = [each for window in windows for each in window.packs]
    samples = [[s for each in window.packs for s in each] for window in windows]
    fill = measure_fill(packs, pack)
    return Forecast(
        windows=count,
        windows_per_epoch=plan.windows_per_epoch,
        samples_per_epoch=plan.samples_per_epoch,
        packed=pack.enabled,
        fill=fill,
        sources=dict(source_shares(plan, packs)),
        shares=count_shares(windows),
        longest=longest_sample(packs),
        global_batch_size=global_batch_size,
        dp_size=dp_size,
        imbalances=list(
            step_imbalances(
                _whole_steps(plan, packs, global_batch_size), global_batch_size, dp_size, tile_cost
            )
        ),
        suggestions=list(suggest(samples, pack, fill)) if pack.enabled and packs else [],
    )


def _whole_steps(plan: Plan, packs: list[Pack], global_batch_size: int) -> list[Pack]:
    """The packs that were looked at, or where they are less than a step, those of the first step.

    Training fills a step with packs of the next epochs.
    """
    if not packs or len(packs) >= global_batch_size:
        return packs
    return [pack for pack, _, _ in islice(plan.stream(Cursor()), global_batch_size)]


def measure_fill(packs: Sequence[Sequence[PlannedSample]], pack: PackConfig) -> Fill:
    """Measure how full packs are."""
    tokens = sum(sample.tokens for each in packs for sample in each)
    tiles = sum(sample.tiles for each in packs for sample in each)
    count = max(len(packs), 1)
    return Fill(
        text_tokens=pack.text_tokens,
        tiles=pack.tiles,
        packs=len(packs),
        text_fill=tokens / (count * pack.text_tokens),
        tile_fill=tiles / (count * pack.tiles),
        samples_per_pack=sum(map(len, packs)) / count,
    )


def source_shares(plan: Plan, packs: Sequence[Pack]) -> Iterator[tuple[str, SourceShare]]:
    """Yield each source's part of the packs."""
    for number, source in enumerate(plan.sources):
        mine = [sample for pack in packs for sample in pack if sample.source == number]
        yield (
            source.name,
            SourceShare(
                samples=len(mine),
                text_tokens=sum(sample.tokens for sample in mine),
                tiles=sum(sample.tiles for sample in mine),
            ),
        )


def longest_sample(packs: Sequence[Pack]) -> tuple[int, int]:
    """Most text tokens of a sample, and most tiles of one."""
    samples = [sample for pack in packs for sample in pack]
    return max((s.tokens for s in samples), default=0), max((s.tiles for s in samples), default=0)


def step_imbalances(
    packs: Sequence[Pack], global_batch_size: int, dp_size: int, tile_cost: float
) -> Iterator[float]:
    """Yield, for each complete step, how much longer its busiest rank works than the average."""
    for first in range(0, len(packs) - global_batch_size + 1, global_batch_size):
        shares = share_packs(packs[first : first + global_batch_size], dp_size, tile_cost)
        yield imbalance([sum(predicted_cost(p, tile_cost) for p in share) for share in shares])


def suggest(
    windows: Sequence[Sequence[PlannedSample]], pack: PackConfig, now: Fill
) -> Iterator[Fill]:
    """Yield budgets under which text and tiles run out together, packed again to see the fill.

    One keeps the text budget and one the tile budget; neither is smaller than the largest sample
    that is kept now.
    """
    samples = [sample for window in windows for sample in window]
    if not now.tile_fill or abs(now.tile_fill / now.text_fill - 1) < BALANCED_WITHIN:
        return
    tiles = max(1, round(pack.tiles * now.tile_fill / now.text_fill))
    tokens = round(pack.text_tokens * now.text_fill / now.tile_fill)
    candidates = (
        replace(pack, tiles=max(tiles, *(sample.tiles for sample in samples))),
        replace(pack, text_tokens=max(tokens, *(sample.tokens for sample in samples))),
    )
    for candidate in candidates:
        if candidate != pack:
            repacked = [each for window in windows for each in pack_again(window, candidate)]
            yield measure_fill(repacked, candidate)


def pack_again(samples: Sequence[PlannedSample], pack: PackConfig) -> list[list[PlannedSample]]:
    """Pack one window's samples under other budgets."""
    packs = pack_window(
        np.array([sample.tokens for sample in samples], np.int64),
        np.array([sample.tiles for sample in samples], np.int64),
        max_tokens=pack.text_tokens,
        max_tiles=pack.tiles,
    )
    return [[samples[place] for place in each] for each in packs]
