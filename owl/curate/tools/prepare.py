# SPDX-License-Identifier: Apache-2.0
"""Index every *.tar of a folder, check its samples, and write dataset.json.

    owl data prepare shards/
    owl data prepare shards/ --tokenizer qwen2/ --template v3 --image-size 378
    owl data prepare shards/ --workers 8 +experiment=stage2 model=owl3_7b_240728 \\
        data=own data.sources.mine.path=shards/ data.tokenizer=qwen2/ data.max_frames=8

Run it again after a stop, or after adding or replacing shards: those that did not change are not
indexed again, but their invalid samples are reported again.

Token counts can be made now, instead of by every rank when training starts. They depend on the
tokenizer, the template, the tile size, data.max_frames and data.special_literals, so it is safest
to give the overrides of the training command (also --config-dir, --config-name): the folder is
counted as the source of the run with this path. --tokenizer counts without a run.

Exit code: 0 no problem was found; 1 some samples are invalid or some shards are damaged (each is
named); 2 the folder cannot be prepared at all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from owl.errors import OwlError
from owl.progress import Progress, print_beside_progress

if TYPE_CHECKING:  # torch takes a second: --help does without it
    from owl.curate.prepare import Counting, ShardDone

FOREIGN = ("E108", "E104")
"""Codes of members that shards of owl3-sample/1 never have: a picture first, folders, links."""


def _parse_arguments(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Read the command line: the options here, and the overrides of the training command."""
    parser = argparse.ArgumentParser(
        prog="owl data prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="folder of the shards")
    parser.add_argument("--tokenizer", type=Path, help="also count tokens with this tokenizer")
    parser.add_argument(
        "--template",
        type=str,
        choices=["v2", "v3"],
        default="v2",
        help="template to count for (default: v2)",
    )
    parser.add_argument(
        "--image-size", type=int, default=384, help="tile side to count for (default: 384)"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    return parser.parse_known_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare the folder named on the command line; return the exit code."""
    arguments, overrides = _parse_arguments(argv)
    problem = _find_problem(arguments, overrides)
    if problem:
        print(f"prepare: {problem}", file=sys.stderr)
        return 2
    try:
        countings = _choose_countings(arguments, overrides)
    except OwlError as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 2
    from owl.curate.prepare import prepare_folder

    try:
        problems = prepare_folder(
            arguments.folder,
            countings=countings,
            workers=arguments.workers,
            progress=ProgressPrinter(arguments.folder),
        )
    except OSError as error:  # a full, read-only or failing disk
        print(f"prepare: {error}", file=sys.stderr)
        print("prepare: not finished. Run the same command again to resume.", file=sys.stderr)
        return 2
    for line in problems:
        print(line, file=sys.stderr)
    if any(line.startswith(FOREIGN) for line in map(str, problems)):
        print(
            "prepare: tars of image-caption pairs become shards by "
            f"`owl data convert captions --input {arguments.folder} --output SHARDS`.",
            file=sys.stderr,
        )
    print(f"wrote {arguments.folder / 'dataset.json'}, {len(problems)} problem(s)")
    return 1 if problems else 0


class ProgressPrinter:
    """Prints each shard that is done, and on standard error how long is left."""

    def __init__(self, folder: Path) -> None:
        self._bytes = sum(path.stat().st_size for path in folder.glob("*.tar"))
        self._by_verb: dict[str, Progress] = {}

    def __call__(self, done: ShardDone) -> None:
        """Print one shard."""
        print_beside_progress(f"{done.verb} {done.number}/{done.total} {done.path}")
        if done.verb not in self._by_verb:  # counting takes its own time
            self._by_verb[done.verb] = Progress(done.verb, self._bytes)
        self._by_verb[done.verb].advance(done.path.stat().st_size, done.path.name)


def _choose_countings(arguments: argparse.Namespace, overrides: Sequence[str]) -> list[Counting]:
    """Choose the settings to count for: none, those of the options, or those of a run.

    Raises:
        OwlError: the run is invalid, or its tokenizer cannot be read.
    """
    from owl.config.data_run import read_data_run
    from owl.config.run import ModelConfig, VisionTowerConfig
    from owl.curate.prepare import Counting, countings_of_run
    from owl.data.families import reading_of

    countings: list[Counting] = []
    if overrides:
        countings = countings_of_run(read_data_run(overrides), arguments.folder)
    elif arguments.tokenizer:
        tower = VisionTowerConfig(image_size=arguments.image_size)
        model = ModelConfig(template=arguments.template, vision_tower=tower)
        countings = [Counting(arguments.tokenizer, reading_of(model))]
    for counting in countings[:1]:  # those of a run have the same one
        counting.encoder()
    return countings


def _find_problem(arguments: argparse.Namespace, overrides: Sequence[str]) -> str | None:
    if not arguments.folder.is_dir():
        return f"{arguments.folder} is not a folder."
    if not any(arguments.folder.glob("*.tar")):
        return f"{arguments.folder} has no *.tar."
    if overrides and arguments.tokenizer:
        return f"--tokenizer and overrides of a run ({overrides[0]} ...): give one of the two."
    for option in ("workers", "image_size"):
        if getattr(arguments, option) < 1:
            name = option.replace("_", "-")
            return f"--{name} {getattr(arguments, option)}: use at least 1."
    return None
