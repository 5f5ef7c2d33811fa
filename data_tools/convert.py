# SPDX-License-Identifier: Apache-2.0
"""Convert a public data set, or your own, into shards of owl3-sample/1.

    python data_tools/convert.py llava --input llava.json --images images/ --output shards/
    python data_tools/convert.py captions --input cc12m/ --output shards/ --workers 8
    python data_tools/prepare.py shards/

Nothing is guessed: a record with a missing or damaged picture, marks that do not match its
pictures, or a field of the wrong type gives no sample, but a line in shards/rejects.jsonl with
file, line, code and reason. Run the same command again to go on after a stop: finished shards
are kept. docs/converting.md has an example for each family.

Exit code: 0 every record became a sample; 1 some records were rejected (rejects.jsonl), or shards
remain whose input is gone; 2 the conversion could not start or go on; 130 stopped by Ctrl-C.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from owl.data.converters.families import FAMILIES
from owl.data.converters.job import REJECTS_FILE, ConvertJob, ConvertReport, convert
from owl.data.converters.prompt_endings import WORDING, PromptEnding
from owl.data.converters.records import ConvertError, ConvertOptions, MissingPictures
from owl.data.converters.shard_series import ShardLimits
from owl.data.schema import CUT_MODES
from owl.errors import OwlError

FAMILY_HELP = {
    "llava": "LLaVA json: conversations with <image> marks",
    "obelics": "OBELICS json: images and texts in parallel",
    "mmc4": "MMC4 jsonl: sentences with matched pictures",
    "m4": "M4-Instruct json: conversations over several pictures",
    "sharegpt4video": "ShareGPT4Video json, frames as pictures in folders",
    "captions": "image-caption tars of img2dataset (LAION, COYO, DataComp, CC12M)",
    "parquet": "Hugging Face parquet: interleaved (OBELICS) or chat (The Cauldron)",
    "jsonl": "your own: messages, question and answer, or text",
}
NAME_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,40}")
ENDINGS = ", ".join(f"{kind} {wording.strip()!r}" for kind, wording in WORDING.items())


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    families = "\n".join(f"  {name:15} {text}" for name, text in FAMILY_HELP.items())
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"families:\n{families}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("family", choices=list(FAMILIES), metavar="FAMILY", help="see below")
    add_folders(parser)
    add_choices(parser)
    add_running(parser)
    return parser.parse_args(argv)


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say where things are."""
    group = parser.add_argument_group("where")
    group.add_argument("--input", type=Path, required=True, help="source file, or folder of them")
    group.add_argument(
        "--images", type=Path, help="folder that picture names in the source are relative to"
    )
    group.add_argument("--output", type=Path, required=True, help="folder for the shards")
    group.add_argument("--name", help="first part of each sample's key (default: the family)")
    group.add_argument(
        "--url-map",
        type=Path,
        help='jsonl of {"url": ..., "file": ...}: where the picture of a url lies under --images',
    )


def add_choices(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that change what is written."""
    group = parser.add_argument_group("what is written")
    group.add_argument(
        "--prompt-ending",
        type=PromptEnding,
        choices=list(PromptEnding),
        help=f"end every question with the family's wording: {ENDINGS}",
    )
    group.add_argument(
        "--turns-of",
        metavar="FIELD",
        help="jsonl questions: lines in a row with the same FIELD are one conversation",
    )
    group.add_argument(
        "--cut", choices=CUT_MODES, help="mark each picture: on for text-rich ones (default: none)"
    )
    group.add_argument(
        "--escape",
        action="store_true",
        help="keep text that looks like markup as plain text (default: reject it, E206)",
    )
    group.add_argument(
        "--missing-pictures",
        type=MissingPictures,
        choices=list(MissingPictures),
        default=MissingPictures.reject,
        help="obelics and mmc4: reject the document (default), or leave the picture out",
    )
    group.add_argument(
        "--no-decode",
        action="store_true",
        help="only read the headers of pictures: faster, but damage is found in training",
    )
    group.add_argument("--shard-samples", type=int, default=ShardLimits().max_samples)
    group.add_argument("--shard-bytes", type=int, default=ShardLimits().max_bytes)


def add_running(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say how it runs."""
    group = parser.add_argument_group("running")
    group.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    group.add_argument(
        "--retry-rejects",
        action="store_true",
        help="convert finished batches with rejects again, say after more pictures were downloaded",
    )


def make_job(arguments: argparse.Namespace) -> ConvertJob:
    """Describe the conversion that the command line asks for."""
    return ConvertJob(
        family=FAMILIES[arguments.family],
        input=arguments.input,
        images=arguments.images,
        output=arguments.output,
        name=arguments.name or arguments.family,
        options=ConvertOptions(
            prompt_ending=arguments.prompt_ending,
            escape=arguments.escape,
            missing_pictures=arguments.missing_pictures,
            cut=arguments.cut,
            turns_of=arguments.turns_of,
            url_map=arguments.url_map,
            decode=not arguments.no_decode,
        ),
        limits=ShardLimits(arguments.shard_samples, arguments.shard_bytes),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Convert what the command line names; return the exit code."""
    arguments = parse_arguments(argv)
    problem = find_problem(arguments)
    if problem:
        print(f"convert: {problem}", file=sys.stderr)
        return 2
    return run(make_job(arguments), arguments.workers, retry_rejects=arguments.retry_rejects)


def run(job: ConvertJob, workers: int, *, retry_rejects: bool) -> int:
    """Convert, report, and return the exit code."""
    try:
        report = convert(job, workers=workers, retry_rejects=retry_rejects, tell=print_progress)
    except (OwlError, OSError) as error:
        print(f"convert: {error}", file=sys.stderr)
        hint = "" if isinstance(error, ConvertError) else " Run the same command again to go on."
        print(f"convert: not finished.{hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("convert: stopped. Run the same command again to go on.", file=sys.stderr)
        return 130
    print_report(report, job.output)
    return 1 if report.rejects or report.abandoned else 0


def print_progress(line: str) -> None:
    """Print at once, also into a log file."""
    print(line, flush=True)


def print_report(report: ConvertReport, output: Path) -> None:
    """Print what became of the source."""
    print(f"wrote {report.samples} samples into {report.shards} shards in {output}")
    if report.rejects:
        codes = ", ".join(f"{code} {count}" for code, count in report.codes.items())
        print(f"rejected {report.rejects}: {codes}; see {output / REJECTS_FILE}", file=sys.stderr)
    for name in report.abandoned:
        print(f"{name} belongs to input that is gone: delete it, or restore it.", file=sys.stderr)


def find_problem(arguments: argparse.Namespace) -> str | None:
    """What keeps the conversion from starting."""
    if not arguments.input.exists():
        return f"--input {arguments.input} does not exist."
    if arguments.images and not arguments.images.is_dir():
        return f"--images {arguments.images} is not a folder."
    if arguments.url_map and not arguments.url_map.is_file():
        return f"--url-map {arguments.url_map} is not a file."
    if arguments.name is not None and not NAME_PATTERN.fullmatch(arguments.name):
        return f"--name {arguments.name}: use up to 40 letters, digits, _ and -."
    if arguments.turns_of and arguments.family != "jsonl":
        return f"--turns-of works with jsonl, not with {arguments.family}."
    if arguments.output.resolve().is_relative_to(arguments.input.resolve()):
        return f"--output {arguments.output} lies inside --input: shards would become input."
    for name in ("workers", "shard_samples", "shard_bytes"):
        if getattr(arguments, name) < 1:
            return f"--{name.replace('_', '-')} {getattr(arguments, name)}: use at least 1."
    return None


if __name__ == "__main__":
    sys.exit(main())
