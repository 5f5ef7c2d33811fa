# SPDX-License-Identifier: Apache-2.0
"""Packing under two budgets, against next-fit and a knapsack that knows only text.

    python benchmarks/packing.py                       # the two synthetic mixes
    python benchmarks/packing.py --lengths lengths.csv --text-tokens 4096 --tiles 40

Prints, per method, the packs in per cent of the bound (no packer can use fewer than
max(sum of tokens / text budget, sum of tiles / tile budget)), how much of each budget is filled,
how much longer the busiest of the ranks works than the average, and samples planned per second.
A CSV has the columns tokens,tiles. Exit code 1 when the window packer misses its floor.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from owl.config.load import compose
from owl.data.families import WORK
from owl.data.plan.balance import share_packs
from owl.data.plan.packing import pack_window
from owl.data.plan.plan import Pack, PlannedSample, imbalance, predicted_cost
from owl.data.shown import CutChoice

Lengths = NDArray[np.int64]
Packs = list[list[int]]

MODELS = {"7B": "owl3_7b_240728", "2B": "owl3_2b_241014"}
IMBALANCE_CEILING = 0.025
TOKENS_PER_TILE = 6
"""The placeholder's five tokens and a separator."""


@dataclass(frozen=True, slots=True)
class Mix:
    """Samples to pack, and the budgets that go with them."""

    name: str
    tokens: Lengths
    tiles: Lengths
    max_tokens: int
    max_tiles: int
    floor: float = 0.0  # share of the bound that the window packer has to reach
    experiment: str = "stage2"

    def fitting(self) -> "Mix":
        """Leave out what exceeds a budget by itself, as the plan does."""
        fits = (self.tokens <= self.max_tokens) & (self.tiles <= self.max_tiles)
        return Mix(
            self.name,
            self.tokens[fits],
            self.tiles[fits],
            self.max_tokens,
            self.max_tiles,
            self.floor,
            self.experiment,
        )

    @property
    def bound(self) -> float:
        """Packs that the tighter budget needs, were samples liquid."""
        return max(self.tokens.sum() / self.max_tokens, self.tiles.sum() / self.max_tiles)


# The mixes: shares and lengths shaped on public corpus statistics. Shapes matter, not last digits.


@dataclass(frozen=True, slots=True)
class Kind:
    """Samples of one kind: their share, text lengths (log-normal, clipped), and tiles."""

    share: float
    mean: float
    sigma: float
    shortest: int
    longest: int
    tiles: Callable[[np.random.Generator, int], Lengths]


def any_of(*choices: int, p: Sequence[float]) -> Callable[[np.random.Generator, int], Lengths]:
    """Draw tiles from a few values."""
    return lambda rng, count: rng.choice(choices, count, p=p)


def geometric(
    chance: float, low: int, high: int, shift: int = 0
) -> Callable[[np.random.Generator, int], Lengths]:
    """Draw tiles that thin out, as pictures in web documents do."""
    return lambda rng, count: np.clip(shift + rng.geometric(chance, count), low, high)


ALIGNMENT = (
    Kind(0.45, 55, 0.6, 8, 400, any_of(1, p=[1.0])),  # captions
    Kind(0.30, 816, 1.0, 40, 20000, geometric(1 / 2.5, 1, 30)),  # interleaved documents
    Kind(0.10, 120, 0.5, 20, 600, any_of(8, 16, 32, p=[0.6, 0.3, 0.1])),  # video captions
    Kind(0.10, 700, 0.7, 60, 6000, any_of(4, 5, 7, p=[0.2, 0.4, 0.4])),  # cut pages of text
    Kind(0.05, 450, 1.1, 20, 20000, any_of(0, p=[1.0])),  # text
)
INSTRUCTIONS = (
    Kind(0.50, 350, 0.9, 30, 6000, any_of(1, 4, 5, 7, p=[0.15, 0.15, 0.35, 0.35])),  # one picture
    Kind(0.20, 400, 0.8, 40, 6000, geometric(0.22, 2, 40, shift=1)),  # several pictures
    Kind(0.15, 300, 0.8, 30, 4000, any_of(8, 16, 32, 64, 128, p=[0.2, 0.4, 0.2, 0.15, 0.05])),
    Kind(0.15, 450, 1.1, 20, 20000, any_of(0, p=[1.0])),  # text
)


def draw(kinds: Sequence[Kind], count: int, seed: int) -> tuple[Lengths, Lengths]:
    """Draw samples of a mix.

    Returns:
        Text tokens (placeholders included) and tiles, [count] each.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(kinds), count, p=[kind.share for kind in kinds])
    tokens, tiles = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for number, kind in enumerate(kinds):
        mine = chosen == number
        size = int(mine.sum())
        location = np.log(kind.mean) - kind.sigma**2 / 2
        drawn = rng.lognormal(location, kind.sigma, size)
        tokens[mine] = np.clip(drawn, kind.shortest, kind.longest).astype(np.int64)
        tiles[mine] = kind.tiles(rng, size)
    return tokens + TOKENS_PER_TILE * tiles, tiles


def synthetic_mixes(count: int, seed: int) -> Iterator[Mix]:
    """Yield the two mixes with their floors."""
    yield Mix("alignment", *draw(ALIGNMENT, count, seed), 4096, 40, 0.94, "stage1")
    yield Mix("instructions", *draw(INSTRUCTIONS, count, seed), 8192, 128, 0.985, "stage2")


def read_mix(path: Path, max_tokens: int, max_tiles: int) -> Mix:
    """Read lengths from a CSV with the columns tokens,tiles."""
    table = np.loadtxt(path, dtype=np.int64, delimiter=",", skiprows=1, ndmin=2)
    return Mix(path.name, table[:, 0], table[:, 1], max_tokens, max_tiles)


# The packers.


def windows(mix: Mix, size: int) -> Iterator[NDArray[np.intp]]:
    """Yield the sample numbers of each window."""
    for first in range(0, len(mix.tokens), size):
        yield np.arange(first, min(first + size, len(mix.tokens)))


def dot_product(mix: Mix, window: int) -> Packs:
    """Pack as training does."""
    packs: Packs = []
    for numbers in windows(mix, window):
        local = pack_window(
            mix.tokens[numbers],
            mix.tiles[numbers],
            max_tokens=mix.max_tokens,
            max_tiles=mix.max_tiles,
        )
        packs += [[int(numbers[place]) for place in pack] for pack in local]
    return packs


def next_fit(mix: Mix, window: int) -> Packs:
    """Fill a pack in stream order until a sample does not fit; `window` plays no part."""
    return list(split_by_budgets(mix, range(len(mix.tokens)), mix.max_tokens))


def text_knapsack(mix: Mix, window: int) -> Packs:
    """Pack each window by text alone, largest first, and split where the tiles do not fit."""
    packs: Packs = []
    for numbers in windows(mix, window):
        for pack in first_fit_by_text(mix, numbers):
            packs += split_by_budgets(mix, pack, mix.max_tokens)
    return packs


def first_fit_by_text(mix: Mix, numbers: NDArray[np.intp]) -> Packs:
    """Greedy knapsack: the largest sample that fits what is left of the text budget."""
    waiting = [int(n) for n in numbers[np.argsort(-mix.tokens[numbers], kind="stable")]]
    packs: Packs = []
    while waiting:
        left, pack, kept = mix.max_tokens, [], []
        for number in waiting:
            if mix.tokens[number] <= left:
                left -= int(mix.tokens[number])
                pack.append(number)
            else:
                kept.append(number)
        packs.append(pack)
        waiting = kept
    return packs


def split_by_budgets(
    mix: Mix, numbers: Sequence[int] | range, max_tokens: int
) -> Iterator[list[int]]:
    """Yield runs of samples, in order, that keep both budgets."""
    run: list[int] = []
    tokens = tiles = 0
    for number in numbers:
        more_tokens, more_tiles = int(mix.tokens[number]), int(mix.tiles[number])
        if run and (tokens + more_tokens > max_tokens or tiles + more_tiles > mix.max_tiles):
            yield run
            run, tokens, tiles = [], 0, 0
        run.append(number)
        tokens, tiles = tokens + more_tokens, tiles + more_tiles
    if run:
        yield run


PACKERS: Mapping[str, Callable[[Mix, int], Packs]] = {
    "next-fit": next_fit,
    "text-only knapsack": text_knapsack,
    "windows, dot product": dot_product,
}


# The figures.


@dataclass(frozen=True, slots=True)
class Result:
    """What one packer made of one mix."""

    efficiency: float  # bound / packs
    text_fill: float
    tile_fill: float
    samples_per_second: float
    dealt: Mapping[str, float]  # model -> imbalance, packs dealt by predicted cost
    in_order: Mapping[str, float]  # model -> imbalance, packs dealt as they come


def measure(packer: Callable[[Mix, int], Packs], mix: Mix, arguments: argparse.Namespace) -> Result:
    """Pack a mix, and deal its packs to ranks."""
    begin = time.perf_counter()
    packs = packer(mix, arguments.window)
    seconds = time.perf_counter() - begin
    check_packs(packs, mix)
    planned = [tuple(plan_sample(mix, number) for number in pack) for pack in packs]
    order = np.random.default_rng(0).permutation(len(planned))
    stream = [planned[place] for place in order]
    batches = [*global_batches(stream, arguments.ranks * arguments.microbatches)]
    costs = {name: model_tile_cost(name, mix.experiment) for name in MODELS}
    return Result(
        efficiency=mix.bound / len(packs),
        text_fill=mix.tokens.sum() / (len(packs) * mix.max_tokens),
        tile_fill=mix.tiles.sum() / (len(packs) * mix.max_tiles),
        samples_per_second=len(mix.tokens) / seconds,
        dealt={m: mean_imbalance(batches, arguments.ranks, c, deal=True) for m, c in costs.items()},
        in_order={
            m: mean_imbalance(batches, arguments.ranks, c, deal=False) for m, c in costs.items()
        },
    )


def check_packs(packs: Packs, mix: Mix) -> None:
    """Each sample once, both budgets kept: otherwise a figure would mean nothing."""
    assert sorted(number for pack in packs for number in pack) == list(range(len(mix.tokens)))
    assert all(mix.tokens[pack].sum() <= mix.max_tokens for pack in packs)
    assert all(mix.tiles[pack].sum() <= mix.max_tiles for pack in packs)


def plan_sample(mix: Mix, number: int) -> PlannedSample:
    """Give a length the form that the plan deals with."""
    tokens, tiles = int(mix.tokens[number]), int(mix.tiles[number])
    return PlannedSample(0, 0, number, CutChoice.none, tokens, tiles)


def global_batches(packs: Sequence[Pack], size: int) -> Iterator[Sequence[Pack]]:
    """Yield whole global batches."""
    for first in range(0, len(packs) - size + 1, size):
        yield packs[first : first + size]


def model_tile_cost(name: str, experiment: str) -> float:
    """Text tokens that weigh as much as a tile, for a published model in a stage."""
    run, problems = compose("pretrain", [f"model={MODELS[name]}", f"experiment={experiment}"])
    assert not problems, problems
    return WORK[run.model.family].tile_cost(run.model, run.stage.trainable)


def mean_imbalance(
    batches: Sequence[Sequence[Pack]], ranks: int, cost: float, *, deal: bool
) -> float:
    """How much longer than the average the busiest rank works, averaged over steps."""
    values = []
    for batch in batches:
        shares = (
            share_packs(batch, ranks, cost) if deal else [batch[r::ranks] for r in range(ranks)]
        )
        values.append(imbalance([sum(predicted_cost(p, cost) for p in share) for share in shares]))
    return float(np.mean(values)) if values else float("nan")


def describe(mix: Mix, results: Mapping[str, Result], arguments: argparse.Namespace) -> str:
    """Write a mix's table."""
    ranks = f"{arguments.ranks} ranks x {arguments.microbatches}"
    lines = [
        f"{mix.name}: {len(mix.tokens)} samples, {mix.max_tokens} tokens and {mix.max_tiles} tiles "
        f"a pack, windows of {arguments.window}; imbalance over {ranks} micro-batches",
        f"  {'':22}{'of bound':>9}{'text':>7}{'tiles':>7}{'samples/s':>11}"
        + "".join(f"{f'{m} dealt':>10}{f'{m} as is':>10}" for m in MODELS),
    ]
    for name, result in results.items():
        shares = f"{result.efficiency:>9.1%}{result.text_fill:>7.1%}{result.tile_fill:>7.1%}"
        ranks = "".join(f"{result.dealt[m]:>10.1%}{result.in_order[m]:>10.1%}" for m in MODELS)
        lines.append(f"  {name:22}{shares}{result.samples_per_second:>11,.0f}{ranks}")
    return "\n".join(lines)


def shortfalls(mix: Mix, result: Result) -> Iterator[str]:
    """Yield what the window packer misses."""
    if result.efficiency < mix.floor:
        yield f"{mix.name}: {result.efficiency:.2%} of the bound is below {mix.floor:.1%}"
    for model, value in result.dealt.items():
        if value > IMBALANCE_CEILING:
            yield f"{mix.name}, {model}: imbalance {value:.2%} is above {IMBALANCE_CEILING:.1%}"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=50_000, help="of each mix (default: 50000)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--window", type=int, default=1024, help="samples packed together")
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--microbatches", type=int, default=8, help="packs per rank and step")
    parser.add_argument("--lengths", type=Path, help="CSV of tokens,tiles instead of the mixes")
    parser.add_argument("--text-tokens", type=int, default=4096, help="budget for --lengths")
    parser.add_argument("--tiles", type=int, default=40, help="budget for --lengths")
    return parser.parse_args()


def main() -> int:
    """Print every mix's table; return 1 when a floor is missed."""
    arguments = parse_arguments()
    if arguments.lengths:
        mixes = [read_mix(arguments.lengths, arguments.text_tokens, arguments.tiles)]
    else:
        mixes = [*synthetic_mixes(arguments.samples, arguments.seed)]
    missed: list[str] = []
    for whole in mixes:
        mix = whole.fitting()
        results = {name: measure(packer, mix, arguments) for name, packer in PACKERS.items()}
        print(describe(mix, results, arguments))
        dropped = len(whole.tokens) - len(mix.tokens)
        print(f"  {dropped} samples exceed a budget by themselves and are left out\n")
        missed += shortfalls(mix, results["windows, dot product"])
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
