# SPDX-License-Identifier: Apache-2.0
"""Parse a command line into options, and overrides such as parallel.tensor=2."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from owl.config.settings import closest_setting


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """A parsed command line."""

    config_name: str
    config_dirs: list[Path]
    overrides: list[str]
    problems: list[str]
    help: bool
    print_config: bool


def read_command_line(config_name: str, arguments: Sequence[str]) -> CommandLine:
    """Separate options from overrides; an unknown option becomes a problem."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--cfg", default=None)
    parser.add_argument("--config-dir", "-cd", action="append", default=[])
    parser.add_argument("--config-name", "-cn", default=config_name)
    options, rest = parser.parse_known_args(arguments)
    problems = [*_option_problems(rest), *_config_dir_problems(options.config_dir)]
    if options.cfg not in (None, "job"):
        problems.append(f"--cfg {options.cfg} is not known. Use --cfg job.")
    return CommandLine(
        config_name=options.config_name,
        config_dirs=[Path(d).resolve() for d in options.config_dir if Path(d).is_dir()],
        overrides=[word for word in rest if not word.startswith("-")],
        problems=problems,
        help=options.help,
        print_config=options.cfg is not None,
    )


def _option_problems(words: Sequence[str]) -> Iterator[str]:
    for word in words:
        if word.startswith("-"):
            guess = closest_setting(word.lstrip("-").split("=")[0]) or "parallel.tensor"
            yield (
                f"{word} is not an option; the options are --help, --cfg job, --config-dir DIR and "
                f"--config-name NAME. Settings are written without dashes, such as {guess}=VALUE."
            )


def _config_dir_problems(folders: Sequence[str]) -> Iterator[str]:
    for folder in folders:
        if not Path(folder).is_dir():
            yield (
                f"--config-dir {folder} is not a folder. Name one laid out like configs/, "
                f"for instance with data/mine.yaml in it."
            )
