# SPDX-License-Identifier: Apache-2.0
"""What the tools that convert have in common: how they run, what they print, how they exit."""

import argparse
import re
import sys
from pathlib import Path

from owl.curate.converters.job import REJECTS_FILE, ConvertJob, ConvertReport, convert
from owl.curate.converters.records import ConvertError
from owl.curate.converters.shard_series import ShardLimits
from owl.errors import OwlError

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
        "--retry-rejects",
        action="store_true",
        help="convert finished batches with rejects again, after more pictures were downloaded",
    )


def running_problem(arguments: argparse.Namespace) -> str | None:
    """Return what is wrong with these arguments or with input and output, None if nothing is."""
    if not arguments.input.exists():
        return f"--input {arguments.input} does not exist."
    if arguments.output.resolve().is_relative_to(arguments.input.resolve()):
        return f"--output {arguments.output} is inside --input: shards would become input."
    if arguments.name is not None and not NAME_PATTERN.fullmatch(arguments.name):
        return f"--name {arguments.name}: use up to 40 letters, digits, _ and -."
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


def _print_line(line: str) -> None:
    """Print at once, even into a log file."""
    print(line, flush=True)


def _print_report(report: ConvertReport, output: Path) -> None:
    """Print what the conversion wrote, rejected and left."""
    print(f"wrote {report.samples} samples into {report.shards} shards in {output}")
    if report.rejects:
        codes = ", ".join(f"{code} {count}" for code, count in report.codes.items())
        print(f"rejected {report.rejects}: {codes}; see {output / REJECTS_FILE}", file=sys.stderr)
    for name in report.abandoned:
        print(f"{name} belongs to input that is gone: delete it, or restore it.", file=sys.stderr)
