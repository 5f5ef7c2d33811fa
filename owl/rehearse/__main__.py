# SPDX-License-Identifier: Apache-2.0
"""Rehearse a training step of a cluster on this machine, which needs no GPU.

    owl rehearse +experiment=stage2 model=owl3_7b_240728 scale=published parallel=tp4 \\
        rehearse.gpus=64 rehearse.device=h100

One rank is built and takes a step with the code that trains, on tensors without content. Printed
are its memory, kernels, communication and waits, and from a table of the machine's rates the time
of a step: a bound, which leaves out whatever is not counted. The words are those of a training run;
rehearse.* are the settings of the rehearsal (`owl train --help` describes every one).
"""

import json
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from owl.config.check import run_problems
from owl.config.command_line import read_command_line
from owl.config.load import compose
from owl.config.run import DeviceKind, RunConfig
from owl.errors import ConfigError, OwlError
from owl.rehearse.machine import Machine, load_machine

if TYPE_CHECKING:
    from owl.rehearse.figures import Figures

EXIT_HANG = 1
EXIT_BAD_CONFIG = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Rehearse what the command line describes; return the exit code."""
    line = read_command_line("pretrain", sys.argv[1:] if argv is None else list(argv))
    if line.help:
        print(__doc__)
        return 0
    run, problems = compose(line.config_name, line.overrides, config_dirs=line.config_dirs)
    try:
        problems = [*line.problems, *problems, *prepare(run)]
        if problems:
            raise ConfigError(problems)
        return _print_ranks(run, load_machine(run.rehearse.device))
    except OwlError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_CONFIG


def prepare(run: RunConfig) -> list[str]:
    """Set what a rehearsal decides itself, and return the problems of the run."""
    run.parallel.device = DeviceKind.cuda
    run.checkpoint.start_from = "any checkpoint"  # weights have no content here
    run.rehearse.gpus = run.rehearse.gpus or run.parallel.tensor * run.parallel.pipeline
    problems = run_problems(run, run.rehearse.gpus)
    if run.parallel.virtual_pipeline > 1:
        problems.append(
            f"parallel.virtual_pipeline={run.parallel.virtual_pipeline} cannot be rehearsed: its "
            f"stages exchange shapes in an order that one rank does not know. Rehearse it with 1."
        )
    return problems


def _print_ranks(run: RunConfig, machine: Machine) -> int:
    """Print the report of each rank; return the exit code, not 0 where a job would hang."""
    from owl.rehearse.report import report

    written = []
    for figures, mix in rehearse_ranks(run, machine, ranks_of(run)):
        print(report(figures, run, machine, mix=mix), "-" * 80, sep="\n", flush=True)
        written.append(figures)
    if run.rehearse.json is not None:
        Path(run.rehearse.json).write_text(
            json.dumps([asdict(figures) for figures in written], indent=1) + "\n"
        )
    return EXIT_HANG if any(figures.hang for figures in written) else 0


def rehearse_ranks(
    run: RunConfig, machine: Machine, ranks: Sequence[int]
) -> Iterator[tuple["Figures", str]]:
    """Rehearse each rank in a process of its own, because pretending a device has no way back."""
    from owl.rehearse.worker import rehearse

    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:
        for rank in ranks:
            yield pool.apply(rehearse, (run, machine, rank, run.rehearse.gpus))


def ranks_of(run: RunConfig) -> list[int]:
    """One rank of the first pipeline stage, and one of the last."""
    if run.rehearse.rank is not None:
        return [run.rehearse.rank]
    assert run.rehearse.gpus is not None
    return [0] if run.parallel.pipeline == 1 else [0, run.rehearse.gpus - 1]


if __name__ == "__main__":
    sys.exit(main())
