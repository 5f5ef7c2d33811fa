# SPDX-License-Identifier: Apache-2.0
"""Forecast what a run will get out of its data, before any GPU is booked.

    owl data plan --dp 8 +experiment=stage2 model=owl3_7b_240728 scale=published \\
        data=own data.sources.mine.path=/data/mine data.tokenizer=/data/Qwen2-7B pack.enabled=true

Give it the overrides of the training command (also --config-dir, --config-name). It prints how full
packs will be, steps per epoch, what is dropped, how evenly ranks will work, and budgets that fit
the data better. Nothing is decoded. Missing token counts are made and stored.

Exit code: 0 the plan is printed; 2 the settings or the data cannot be used.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from owl.errors import ConfigError, OwlError, UsageError

if TYPE_CHECKING:  # torch takes a second: --help does without it
    from owl.config.run import RunConfig
    from owl.curate.forecast import Fill, Forecast
    from owl.data.loader import Loader


def _parse_arguments(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Read the command line: the options here, and the overrides of the training command."""
    parser = argparse.ArgumentParser(
        prog="owl data plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dp", type=int, default=1, help="data-parallel ranks (default: 1)")
    parser.add_argument(
        "--samples",
        type=int,
        default=100_000,
        help="look at about this many samples of the first epoch (default: 100000)",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as json")
    return parser.parse_known_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the plan of the run on the command line; return the exit code."""
    arguments, overrides = _parse_arguments(argv)
    from owl.config.data_run import read_data_run
    from owl.data.open_run import open_loader

    try:
        for option in ("dp", "samples"):
            if getattr(arguments, option) < 1:
                raise UsageError(f"--{option} {getattr(arguments, option)}: use 1 or more.")
        run = read_data_run(overrides)
        loader = open_loader(run, dp_size=arguments.dp)
        result = _make_forecast(run, loader, arguments.dp, arguments.samples)
    except OwlError as error:
        print(f"plan: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(_describe_json(result), indent=1))
    else:
        print("\n".join(_describe(result, run, loader)))
    return 0


def _make_forecast(run: RunConfig, loader: Loader, dp_size: int, max_samples: int) -> Forecast:
    """Forecast a run. Raises ConfigError if the ranks cannot divide a step evenly."""
    from owl.curate.forecast import forecast
    from owl.data.open_run import step_size

    global_batch_size = step_size(run.batch, loader, dp_size=dp_size)
    per_forward = dp_size * run.batch.micro_batch_size
    if global_batch_size % per_forward:
        raise ConfigError(
            f"batch.global_batch_size={global_batch_size} must be a multiple of {per_forward}: "
            f"batch.micro_batch_size={run.batch.micro_batch_size} on each of --dp {dp_size} ranks."
        )
    return forecast(
        loader.plan,
        run.pack,
        global_batch_size=global_batch_size,
        dp_size=dp_size,
        tile_cost=loader.tile_cost,
        max_samples=max_samples,
    )


def _describe(result: Forecast, run: RunConfig, loader: Loader) -> Iterator[str]:
    from owl.data.plan.shares import describe_shares, unlisted_shards

    yield (
        f"{result.samples_per_epoch:,} samples an epoch in {result.windows_per_epoch:,} window(s) "
        f"of {run.pack.window}; looked at {result.windows:,}"
    )
    yield from _source_lines(result)
    yield from describe_shares(result.shares, run)
    yield from _fill_lines(result)
    yield _step_line(result, run.stage.train_steps)
    yield _balance_line(result, loader.tile_cost)
    yield from _suggestion_lines(result)
    yield from unlisted_shards(loader.plan)


def _source_lines(result: Forecast) -> Iterator[str]:
    totals = [
        max(1, sum(getattr(share, name) for share in result.sources.values()))
        for name in ("samples", "text_tokens", "tiles")
    ]
    yield f"  {'source':20}{'samples':>18}{'text tokens':>20}{'tiles':>18}"
    for name, share in result.sources.items():
        amounts = (share.samples, share.text_tokens, share.tiles)
        cells = [f"{a:,} ({a / total:.0%})" for a, total in zip(amounts, totals, strict=True)]
        yield f"  {name:20}{cells[0]:>18}{cells[1]:>20}{cells[2]:>18}"


def _fill_lines(result: Forecast) -> Iterator[str]:
    fill = result.fill
    if not result.packed:
        yield f"packing is off: {fill.packs:,} samples, each a pack of its own"
        return
    yield (
        f"packs: {result.packs_per_epoch:,} an epoch, {fill.samples_per_pack:.1f} samples each; "
        f"largest sample: {result.longest[0]:,} tokens; most tiles: {result.longest[1]:,}"
    )
    yield (
        f"fill: text {fill.text_fill:.1%} of {fill.text_tokens:,}, tiles {fill.tile_fill:.1%} of "
        f"{fill.tiles:,}; {fill.efficiency:.1%} of the bound, which {fill.binding} sets"
    )


def _step_line(result: Forecast, train_steps: int) -> str:
    if not result.fill.packs:
        return "no step can be made: no sample is kept"
    samples = result.fill.samples_per_pack * result.global_batch_size
    epochs = train_steps / max(result.steps_per_epoch, 1e-9)
    return (
        f"a step is {result.global_batch_size:,} packs, about {samples:,.0f} samples; "
        f"{result.steps_per_epoch:,.1f} steps an epoch; "
        f"stage.train_steps={train_steps:,} is {epochs:,.2f} epochs"
    )


def _balance_line(result: Forecast, tile_cost: float) -> str:
    cost = f"a tile weighs {tile_cost:.3g} text tokens"
    if not result.imbalances:
        return f"imbalance: unknown, since less than one step was looked at ({cost})"
    mean = sum(result.imbalances) / len(result.imbalances)
    return (
        f"imbalance over {result.dp_size} rank(s): {mean:.1%} on average, "
        f"{max(result.imbalances):.1%} at worst, in {len(result.imbalances):,} steps ({cost})"
    )


def _suggestion_lines(result: Forecast) -> Iterator[str]:
    for fill in result.suggestions:
        change = (
            f"pack.tiles={fill.tiles}"
            if fill.text_tokens == result.fill.text_tokens
            else f"pack.text_tokens={fill.text_tokens}"
        )
        packs = fill.packs / result.fill.packs
        yield f"try {change}: {_describe_fill(fill)}, {packs:.2f} x the packs"
    if not result.packed or result.suggestions or not result.fill.packs:
        return
    if not result.fill.tile_fill:
        yield "no sample has a tile: only pack.text_tokens matters"
    else:
        yield f"the two budgets run out together{_verdict(result)}"


def _verdict(result: Forecast) -> str:
    lost = 1 - result.shares.kept / result.shares.samples
    return f", but {lost:.1%} of the samples are lost" if lost else ": nothing better to suggest"


def _describe_fill(fill: Fill) -> str:
    return f"text {fill.text_fill:.1%}, tiles {fill.tile_fill:.1%}"


def _describe_json(result: Forecast) -> dict[str, object]:
    derived = {
        "packs_per_epoch": result.packs_per_epoch,
        "steps_per_epoch": result.steps_per_epoch,
        "efficiency": result.fill.efficiency,
        "dropped": result.shares.dropped,
    }
    return asdict(result) | derived
