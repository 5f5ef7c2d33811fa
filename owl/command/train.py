# SPDX-License-Identifier: Apache-2.0
"""What pretrain_owl3.py, finetune_owl3.py and `owl train` do.

Imports are late: --help and --cfg must not wait for torch and Megatron.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from owl.config.load import run_with_config
from owl.config.run import RunConfig


def pretrain(arguments: Sequence[str] | None = None) -> None:
    """Start from configs/pretrain.yaml."""
    main("pretrain", arguments)


def finetune(arguments: Sequence[str] | None = None) -> None:
    """Start from configs/finetune.yaml."""
    main("finetune", arguments)


def main(config_name: str, arguments: Sequence[str] | None = None) -> None:
    """Read the command line, print all problems of the run at once, or train.

    Args:
        config_name: file in configs/ to start from, without ".yaml".
        arguments: the command line without the program's name; sys.argv's by default.
    """
    run_with_config(config_name, train_run, more_problems=data_problems_of, arguments=arguments)


def train_run(run: RunConfig) -> None:
    """Make the embedded demo's data if the run uses it, then train.

    Every rank calls prepare_demo: one makes the data, the others wait for it.
    """
    if run.data.demo and not run.dry_run:
        from owl.demo.prepare import prepare_demo

        prepare_demo(Path(run.data.demo_folder), run.model.family)
    from owl.train.run import train

    train(run)


def data_problems_of(run: RunConfig) -> Iterator[str]:
    """Yield the problems with the run's data folders, tokenizer and quarantine file."""
    from owl.data.problems import data_problems, held_out_problems

    yield from data_problems(run.data)
    yield from held_out_problems(run.evaluate, run.data)
