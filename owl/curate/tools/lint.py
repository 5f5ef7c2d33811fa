# SPDX-License-Identifier: Apache-2.0
"""Check every sample of a folder of shards: good, or bad with key or byte, code and message.

    owl data lint shards/
    owl data lint shards/ --workers 8 --json > lint.json
    owl data lint shards/ --headers-only             # do not decode the pictures
    owl data lint shards/ --tokenizer qwen2/ --text-tokens 4096 --tiles 40

Samples behind damage are found too, each shard is compared with its index if it has one, and every
rule that a sample breaks is reported (docs/data_format.md lists the codes). With --tokenizer,
samples that would not fit into a pack are reported as well, measured as in a run with the same
--template, --image-size, --cut and --max-frames.

Exit code: 0 no problem was found; 1 problems were found; 2 the folder cannot be checked.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from owl.config.run import CutPolicy, DataConfig, ModelConfig, PackConfig, VisionTowerConfig
from owl.errors import DataError
from owl.progress import Progress

if TYPE_CHECKING:  # torch takes a second: --help does without it
    from owl.curate.lint.lint import Checks
    from owl.curate.lint.report import FolderReport, ShardReport


def _parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="owl data lint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="folder of the shards")
    parser.add_argument("--json", action="store_true", help="print the complete report as json")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    parser.add_argument(
        "--headers-only", action="store_true", help="read the pictures' headers, not their pixels"
    )
    parser.add_argument(
        "--escape",
        action="store_true",
        help="allow E206: the run will have data.special_literals=escape",
    )
    parser.add_argument(
        "--show", type=int, default=20, help="bad samples to print per shard (default: 20)"
    )
    budgets = parser.add_argument_group("budgets (E401, E402)")
    budgets.add_argument("--tokenizer", type=Path, help="count tokens with this tokenizer")
    budgets.add_argument("--template", type=str, choices=["v2", "v3"], default="v2")
    budgets.add_argument("--image-size", type=int, default=384)
    budgets.add_argument("--text-tokens", type=int, default=PackConfig().text_tokens)
    budgets.add_argument("--tiles", type=int, default=PackConfig().tiles)
    budgets.add_argument(
        "--cut",
        type=CutPolicy,
        choices=list(CutPolicy),
        default=DataConfig().cut,
        help=f"the run's data.cut (default: {DataConfig().cut})",
    )
    budgets.add_argument("--max-frames", type=int, help="the run's data.max_frames (default: all)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Lint the folder named on the command line; return the exit code."""
    arguments = _parse_arguments(argv)
    problem = _find_problem(arguments)
    if problem:
        print(f"lint: {problem}", file=sys.stderr)
        return 2
    from owl.curate.lint.lint import lint_folder

    progress = Progress("linted", sum(p.stat().st_size for p in arguments.folder.glob("*.tar")))
    report = lint_folder(
        arguments.folder,
        _make_checks(arguments),
        workers=arguments.workers,
        report=lambda path, shard: progress.advance(path.stat().st_size, path.name),
    )
    if arguments.json:
        print(json.dumps(report.describe(), indent=1))
    else:
        print("\n".join(_describe_folder(report, arguments.show)))
    return 0 if report.is_clean else 1


def _find_problem(arguments: argparse.Namespace) -> str | None:
    if not arguments.folder.is_dir():
        return f"{arguments.folder} is not a folder."
    if not any(arguments.folder.glob("*.tar")) and not (arguments.folder / "dataset.json").exists():
        return f"{arguments.folder} has no *.tar."
    for option in ("workers", "image_size", "text_tokens", "tiles", "max_frames"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            name = option.replace("_", "-")
            return f"--{name} {value}: use at least 1."
    from owl.curate.lint.lint import budget_encoder

    try:
        if budgets := _make_checks(arguments).budgets:
            budget_encoder(budgets)
    except DataError as error:
        return f"--tokenizer {arguments.tokenizer}: {error}"
    return None


def _make_checks(arguments: argparse.Namespace) -> Checks:
    from owl.curate.lint.lint import Budgets, Checks
    from owl.data.families import reading_of

    budgets = None
    if arguments.tokenizer:
        tower = VisionTowerConfig(image_size=arguments.image_size)
        budgets = Budgets(
            tokenizer=arguments.tokenizer,
            reading=reading_of(ModelConfig(template=arguments.template, vision_tower=tower)),
            text_tokens=arguments.text_tokens,
            tiles=arguments.tiles,
            cut=arguments.cut,
            max_frames=arguments.max_frames,
        )
    return Checks(pixels=not arguments.headers_only, escape=arguments.escape, budgets=budgets)


def _describe_folder(report: FolderReport, show: int) -> Iterator[str]:
    """Yield the report as lines of text.

    Args:
        report: of the folder.
        show: bad samples to list per shard; the rest is counted.
    """
    for shard in report.shards:
        yield from _describe_shard(shard, show)
    for problem in report.problems:
        yield f"{problem.code} {problem.message}"
    bad = report.samples - report.good
    yield f"{len(report.shards)} shards, {report.samples} samples: {report.good} good, {bad} bad"
    if report.codes():
        counts = ", ".join(f"{code} {count}" for code, count in sorted(report.codes().items()))
        yield f"by code: {counts}"


def _describe_shard(shard: ShardReport, show: int) -> Iterator[str]:
    yield f"{shard.file}: {shard.samples} samples, {shard.good} good, {len(shard.bad)} bad"
    if shard.is_broken:
        yield "  owl data prepare leaves this shard out until the tar is repaired"
    for problem in shard.problems:
        where = "" if problem.offset is None else f" (byte {problem.offset})"
        yield f"  {problem.code} shard{where}: {problem.message}"
    for sample in shard.bad[:show]:
        name = "a sample" if sample.key is None else f"sample {sample.key!r}"
        where = "" if sample.offset is None else f" (byte {sample.offset})"
        for reason in sample.problems:
            yield f"  {reason.code} {name}{where}: {reason.message}"
    if len(shard.bad) > show:
        yield f"  and {len(shard.bad) - show} more bad samples: list them with --show N or --json"
