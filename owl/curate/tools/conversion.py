# SPDX-License-Identifier: Apache-2.0
"""What the tools that convert have in common: how they run, what they print, how they exit."""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from owl.curate.converters.formats.layouts import LAYOUTS
from owl.curate.converters.formats.media_fields import FIELDS
from owl.curate.converters.job import REJECTS_FILE, ConvertJob, ConvertReport, convert
from owl.curate.converters.records import ConvertError
from owl.curate.converters.shard_series import ShardLimits
from owl.errors import OwlError

FIELD_NAMES = sorted(
    {name for layout in LAYOUTS for name in layout.needs | layout.takes}
    | {name for first, _ in FIELDS.values() for name in first}
)
"""Fields that the layouts read."""
NAME_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,40}")


def add_running(parser: argparse.ArgumentParser) -> None:
    """Add the arguments about running."""
    group = parser.add_argument_group("running")
    limits = ShardLimits()
    group.add_argument(
        "--shard-samples",
        type=int,
        default=limits.max_samples,
        help=f"samples in a shard, at most (default: {limits.max_samples})",
    )
    group.add_argument(
        "--shard-bytes",
        type=int,
        default=limits.max_bytes,
        help=f"bytes of pictures in a shard, about (default: {limits.max_bytes})",
    )
    group.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    group.add_argument(
        "--follow-links",
        action="store_true",
        help="trust links that lead out of the folders of input, pictures and videos: a source can "
        "then show whatever its links name (default: only those of the Hugging Face cache)",
    )
    group.add_argument(
        "--retry-rejects",
        action="store_true",
        help="convert finished batches with rejects again, after more pictures were downloaded",
    )


def add_reading(group: argparse._ArgumentGroup) -> None:
    """Add the arguments about how records are read."""
    group.add_argument(
        "--map",
        dest="field_map",
        metavar="NAME=FIELD",
        action="append",
        default=[],
        help="read FIELD of the records as NAME, a field of the layouts, such as images=photo",
    )
    group.add_argument(
        "--ignore-field",
        dest="ignore_fields",
        metavar="FIELD",
        action="append",
        default=[],
        help="keep FIELD in meta.raw only, though it looks like a picture or fits a layout",
    )
    group.add_argument(
        "--media-first",
        action="store_true",
        help="show the media of a record without any mark before its text (default: reject it)",
    )


def field_map(given: Sequence[str]) -> dict[str, str]:
    """Read NAME=FIELD arguments. Raises ValueError with what is wrong."""
    pairs = [text.partition("=") for text in given]
    for text, (name, _, field) in zip(given, pairs, strict=True):
        if name not in FIELD_NAMES or not field:
            raise ValueError(f"--map {text}: write NAME=FIELD; NAME is one of {FIELD_NAMES}.")
    names = {name: field for name, _, field in pairs}
    if len(names) < len(given):
        raise ValueError(f"--map {' '.join(given)}: a NAME is there twice.")
    return names


def running_problem(arguments: argparse.Namespace) -> str | None:
    """Return what is wrong with these arguments or with input and output, None if nothing is."""
    if not arguments.input.exists():
        return f"--input {arguments.input} does not exist."
    if arguments.output.resolve().is_relative_to(arguments.input.resolve()):
        return f"--output {arguments.output} is inside --input: shards would become input."
    if arguments.name is not None and not NAME_PATTERN.fullmatch(arguments.name):
        return f"--name {arguments.name}: use up to 40 letters, digits, _ and -."
    try:
        field_map(arguments.field_map)
    except ValueError as error:
        return str(error)
    for name in ("workers", "shard_samples", "shard_bytes"):
        if getattr(arguments, name) < 1:
            return f"--{name.replace('_', '-')} {getattr(arguments, name)}: use at least 1."
    return None


def run_job(job: ConvertJob, workers: int, *, retry_rejects: bool, tool: str) -> int:
    """Convert, report, and return the exit code.

    Returns:
        0 every record became a sample; 1 some were rejected, or shards remain whose input is gone;
        2 the conversion could not start or continue; 130 stopped by Ctrl-C.
    """
    try:
        report = convert(job, workers=workers, retry_rejects=retry_rejects, report=_print_line)
    except (OwlError, OSError) as error:
        print(f"{tool}: {error}", file=sys.stderr)
        hint = "" if isinstance(error, ConvertError) else " Run the same command again to resume."
        print(f"{tool}: not finished.{hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{tool}: stopped. Run the same command again to resume.", file=sys.stderr)
        return 130
    _print_report(report, job.output)
    return 1 if report.rejects or report.abandoned else 0


def _by_code(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{code} {count}" for code, count in counts.items())


def _print_line(line: str) -> None:
    """Print at once, even into a log file."""
    print(line, flush=True)


def _print_report(report: ConvertReport, output: Path) -> None:
    """Print what the conversion wrote, rejected and left."""
    print(f"wrote {report.samples} samples into {report.shards} shards in {output}")
    if report.layouts:
        layouts = ", ".join(f"{name} {count}" for name, count in report.layouts.items())
        print(f"layouts, by the fields of the records: {layouts}")
    if report.left_out:
        total, codes = sum(report.left_out.values()), _by_code(report.left_out)
        print(
            f"pictures and videos: {report.pictures} shown, {total} missing or damaged left out "
            f"({codes}), named in meta.left_out; {report.bare} documents have none left",
            file=sys.stderr,
        )
    if report.rejects:
        codes = _by_code(report.codes)
        print(f"rejected {report.rejects}: {codes}; see {output / REJECTS_FILE}", file=sys.stderr)
    for name in report.abandoned:
        print(f"{name} belongs to input that is gone: delete it, or restore it.", file=sys.stderr)
