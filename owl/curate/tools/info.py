# SPDX-License-Identifier: Apache-2.0
"""Describe a prepared folder: samples, pictures, tokens if counted, and histograms.

    owl data info shards/
    owl data info shards/ --json
    owl data info shards/ --png info.png      # needs matplotlib: extra "demo"

It reads the indexes only, so it is fast on any amount of data. Tokens and tiles are known after
`owl data prepare` with the training command's overrides, or after training has counted them;
"cut" and "uncut" are with and without single pictures cut into a grid.

Exit code: 0 the folder is described; 2 it cannot be read: prepare it first.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from owl.errors import OwlError

if TYPE_CHECKING:  # torch takes a second: --help does without it
    from owl.curate.summary import Distribution, Summary

BAR_WIDTH = 40


def _parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="owl data info",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="folder that owl data prepare has prepared")
    parser.add_argument("--json", action="store_true", help="print the figures as json")
    parser.add_argument("--png", type=Path, help="also draw the histograms into this file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Describe the folder named on the command line; return the exit code."""
    arguments = _parse_arguments(argv)
    if arguments.png and (problem := _png_problem(arguments.png)):
        print(f"info: {problem}", file=sys.stderr)
        return 2
    from owl.curate.summary import summarise

    try:
        summary = summarise(arguments.folder)
    except OwlError as error:
        print(f"info: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(asdict(summary), indent=1))
    else:
        print("\n".join(_describe(summary)))
    if arguments.png:
        _draw(summary, arguments.png)
    return 0


def _png_problem(path: Path) -> str | None:
    if importlib.util.find_spec("matplotlib") is None:
        advice = "Install it: pip install 'owl3-megatron[demo]'. Without --png it is not needed."
        return f"--png needs matplotlib. {advice}"
    if path.is_dir():
        return f"--png {path} is a folder. Name a file in it."
    if not path.absolute().parent.is_dir():
        return f"--png {path}: there is no such folder. Make it first."
    from matplotlib.figure import Figure

    known = Figure().canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in known:
        return f"--png {path}: the suffix must be one of {', '.join(sorted(known))}."
    return None


def _describe(summary: Summary) -> Iterator[str]:
    from owl.data.plan.shares import unlisted_sentence

    yield (
        f"{summary.folder}: {summary.shards:,} shards, {summary.bytes / 1e6:,.1f} MB, "
        f"{summary.samples:,} samples"
    )
    if summary.invalid:
        codes = ", ".join(f"{code} {count:,}" for code, count in summary.invalid.items())
        yield f"invalid, and left out below: {codes} (owl data lint lists them)"
    if summary.without_media:
        valid = summary.samples - sum(summary.invalid.values())
        yield (
            f"without pictures or videos: {summary.without_media:,} samples "
            f"({summary.without_media / valid:.1%}); they teach nothing while the language model "
            "is frozen (stage 1)"
        )
    if summary.unlisted:
        yield unlisted_sentence(summary.unlisted, summary.folder)
    for each in summary.distributions:
        yield from _describe_distribution(each)
    if not any("tokens" in each.name for each in summary.distributions):
        command = f"owl data prepare {summary.folder}"
        yield (
            f"\ntokens are not counted: run {command} with the training command's overrides, or "
            "with --tokenizer DIR"
        )


def _describe_distribution(each: Distribution) -> Iterator[str]:
    total = f"{each.count:,} of them" if each.total is None else f"{each.total:,} in all"
    yield (
        f"\n{each.name}: {total}, {each.mean:,.1f} on average, half at most "
        f"{each.middle:,}, most {each.most:,}"
    )
    highest = max((count for _, count in each.bins), default=1)
    for label, count in each.bins:
        bar = "#" * round(BAR_WIDTH * count / highest)
        yield f"  {label:>12} {count:>9,} {bar}"


def _draw(summary: Summary, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")  # no screen is needed
    from matplotlib import pyplot

    count = len(summary.distributions)
    figure, axes = pyplot.subplots(count, 1, figsize=(8, 2.2 * count), squeeze=False)
    for each, axis in zip(summary.distributions, axes[:, 0], strict=True):
        axis.bar([label for label, _ in each.bins], [number for _, number in each.bins])
        axis.set_title(each.name, fontsize=9, loc="left")
        axis.tick_params(labelsize=8)
    figure.suptitle(f"{summary.folder}: {summary.samples:,} samples", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
