# SPDX-License-Identifier: Apache-2.0
"""Index every *.tar of a folder, check its samples, and write dataset.json.

    python data_tools/prepare.py shards/
    python data_tools/prepare.py shards/ --tokenizer qwen2/ --template v3 --image-size 378

Run it again after adding or replacing shards: those that did not change are not read again. With
--tokenizer the token counts are made now instead of when training starts.

Exit code: 0 all is well; 1 some samples are condemned or some shards are broken (each is named);
2 the folder cannot be prepared at all.
"""

import argparse
import sys
from pathlib import Path

from owl.config.run import TemplateKind
from owl.data.prepare import Counting, ShardDone, prepare_folder
from owl.data.progress import Progress
from owl.data.tokenizer import tokenizer_problem


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder that holds the shards")
    parser.add_argument("--tokenizer", type=Path, help="also count tokens with this tokenizer")
    parser.add_argument(
        "--template",
        type=TemplateKind,
        choices=list(TemplateKind),
        default=TemplateKind.v2,
        help="template to count for (default: v2)",
    )
    parser.add_argument(
        "--image-size", type=int, default=384, help="tile side to count for (default: 384)"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    return parser.parse_args()


def main() -> int:
    """Prepare the folder named on the command line; return the exit code."""
    arguments = parse_arguments()
    problem = find_problem(arguments)
    if problem:
        print(f"prepare: {problem}", file=sys.stderr)
        return 2
    counting = (
        Counting(arguments.tokenizer, arguments.template, arguments.image_size)
        if arguments.tokenizer
        else None
    )
    problems = prepare_folder(
        arguments.folder,
        counting=counting,
        workers=arguments.workers,
        progress=Teller(arguments.folder),
    )
    for line in problems:
        print(line, file=sys.stderr)
    print(f"wrote {arguments.folder / 'dataset.json'}, {len(problems)} problem(s)")
    return 1 if problems else 0


class Teller:
    """Names each shard that is done, and says now and then on standard error how long is left."""

    def __init__(self, folder: Path) -> None:
        self._bytes = sum(path.stat().st_size for path in folder.glob("*.tar"))
        self._progress = Progress(self._bytes, "indexed")

    def __call__(self, done: ShardDone) -> None:
        """Tell of one shard."""
        print(f"{done.verb} {done.number}/{done.total} {done.path}", flush=True)
        self._progress.add(done.path.stat().st_size, done.path.name)
        if done.number == done.total:  # counting, if it follows, takes its own time
            self._progress = Progress(self._bytes, "counted")


def find_problem(arguments: argparse.Namespace) -> str | None:
    """What keeps the folder from being prepared at all."""
    if not arguments.folder.is_dir():
        return f"{arguments.folder} is not a folder."
    if not any(arguments.folder.glob("*.tar")):
        return f"{arguments.folder} holds no *.tar."
    if arguments.tokenizer and (problem := tokenizer_problem(arguments.tokenizer)):
        return f"--tokenizer {arguments.tokenizer}: {problem}"
    if arguments.workers < 1:
        return f"--workers {arguments.workers}: use at least 1."
    return None


if __name__ == "__main__":
    sys.exit(main())
