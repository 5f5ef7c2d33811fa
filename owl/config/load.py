# SPDX-License-Identifier: Apache-2.0
"""Compose a run with hydra into plain dataclasses; the only file that imports hydra.

Hydra composes the YAML files; the result and the command line's overrides are then copied onto the
schema one setting at a time. Hydra alone would stop at the first unknown key: here each value that
cannot be used is left out and becomes a problem, so that all mistakes are reported at once.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from owl.config.check import run_problems
from owl.config.command_line import read_command_line
from owl.config.help import help_page
from owl.config.overlay import Problems, delete, overlay, resolve
from owl.config.run import RunConfig
from owl.config.settings import closest
from owl.errors import ConfigError, OwlError

_INSTALLED = Path(__file__).resolve().parents[1] / "_configs"  # where a wheel has them (setup.py)
_CHECKOUT = Path(__file__).resolve().parents[2] / "configs"
CONFIGS = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
"""Folder of the YAML files."""

MACHINES = "device"
"""Folder of tables that `owl rehearse` reads; not a group of settings."""

EXIT_BAD_CONFIG = 2
EXIT_INTERRUPTED = 130  # the shells' convention: 128 + SIGINT
SECONDS_FOR_RANK_0 = 5.0
_HINT = "Nothing was started. --help lists every setting; --cfg job prints the complete run."


def run_with_config(
    config_name: str,
    main: Callable[[RunConfig], None],
    *,
    more_problems: Callable[[RunConfig], Iterable[str]] = lambda run: (),
    arguments: Sequence[str] | None = None,
) -> None:
    """Read the command line, compose the run, check it, and call main with it.

    All problems are printed at once and the process exits with code 2, before main (and so before
    any process group) starts. Under torchrun every rank does the same and only rank 0 prints.

    Args:
        config_name: file in configs/ to start from, without ".yaml".
        main: called with a run that has no problems.
        more_problems: yields the problems that this package cannot see, such as missing data
            folders; called once, and not for --help and --cfg.
        arguments: the command line without the program's name; sys.argv's by default.
    """
    line = read_command_line(config_name, sys.argv[1:] if arguments is None else arguments)
    if line.help:
        return _print_once(help_page(config_name, _groups([CONFIGS, *line.config_dirs])))
    run, problems = compose(line.config_name, line.overrides, config_dirs=line.config_dirs)
    problems = [*line.problems, *problems]
    if line.print_config:
        if problems:
            _exit_with_problems(ConfigError(problems))
        return _print_once(to_yaml(run))
    problems += run_problems(run, world_size=int(os.environ.get("WORLD_SIZE", "1")))
    problems += more_problems(run)
    if problems:
        _exit_with_problems(ConfigError(problems))
    try:
        main(run)
    except ConfigError as error:
        _exit_with_problems(error, hint="")
    except KeyboardInterrupt:
        _exit_interrupted(
            f"interrupted; the same command resumes from the newest checkpoint in {run.output}"
        )
    except OwlError as error:  # printed by the rank that raised it: torchrun then ends the others
        rank = os.environ.get("RANK", "0")
        sys.exit(f"[rank {rank}] {type(error).__name__}: {error}")


def compose(
    config_name: str, overrides: Sequence[str], *, config_dirs: Sequence[Path] = ()
) -> tuple[RunConfig, Problems]:
    """Compose a run from YAML files and overrides, leaving out what cannot be used.

    Args:
        config_name: file in configs/ to start from, without ".yaml".
        overrides: as on the command line: `parallel.tensor=2`, `model=owl3_7b_240728`.
        config_dirs: the user's folders of YAML files, laid out like configs/.

    Returns:
        The run with every interpolation resolved, and one problem for each value left out. The run
        is complete even then (defaults take their place), so that it can be checked further.
    """
    typed = _sort_overrides(overrides, [CONFIGS, *config_dirs])
    problems = list(typed.problems)
    composed, failure = _compose_yaml(config_name, typed.choices, config_dirs)
    problems += failure
    schema = OmegaConf.structured(RunConfig)
    problems += overlay(schema, composed, "", "a YAML file of this run")
    for override in typed.values:
        problems += _apply(schema, override)
    problems += resolve(schema)
    run = OmegaConf.to_object(schema)
    assert isinstance(run, RunConfig)
    return run, problems


def to_yaml(run: RunConfig) -> str:
    """Write a run as YAML that `--config-dir FOLDER --config-name NAME` reads back."""
    return OmegaConf.to_yaml(OmegaConf.structured(run))


def _print_once(text: str) -> None:
    """Print from rank 0 only."""
    if os.environ.get("RANK", "0") != "0":
        return
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # `--help | head` is no error; without this, Python complains again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _exit_with_problems(error: ConfigError, hint: str = _HINT) -> None:
    """Print the problems on rank 0, and exit without a traceback."""
    if os.environ.get("RANK", "0") == "0":
        print(f"{error}\n{hint}".rstrip(), file=sys.stderr)
    else:
        # torchrun ends all ranks when one exits: rank 0 has to print first.
        time.sleep(SECONDS_FOR_RANK_0)
    sys.exit(EXIT_BAD_CONFIG)


def _exit_interrupted(message: str) -> None:
    """Exit after CTRL-C with one sentence instead of a traceback from every rank."""
    if os.environ.get("RANK", "0") == "0":
        print(f"\n{message}", file=sys.stderr)
    sys.exit(EXIT_INTERRUPTED)


@dataclass(slots=True)
class _Typed:
    """Overrides by kind: choices of a YAML file, values, and problems with the rest."""

    choices: dict[str, str | None] = field(default_factory=dict)  # None drops the group
    values: list[Override] = field(default_factory=list)
    problems: Problems = field(default_factory=list)


def _sort_overrides(overrides: Sequence[str], folders: Sequence[Path]) -> _Typed:
    typed, parser, groups = _Typed(), OverridesParser.create(), _groups(folders)
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException:
            typed.problems.append(_unreadable(text, groups))
            continue
        key = override.key_or_group
        if override.is_sweep_override():
            typed.problems.append(
                f"{text} gives several values, but a run has one. Write a list as "
                f"{key}=[..], or quote the text: '{key}=\"..\"'."
            )
        elif key in groups and not isinstance(override.value(), dict):
            typed.problems += _choose(override, groups[key], typed.choices)
        elif guess := _misspelt_group(override, groups):
            typed.problems.append(
                f"{text} names no group and no setting. Did you mean {guess}={override.value()}?"
            )
        else:
            typed.values.append(override)
    return typed


def _groups(folders: Sequence[Path]) -> dict[str, list[str]]:
    """Map each folder under configs/ to the choices in it: `experiment` to `stage1`, `x/stage1`."""
    found: dict[str, set[str]] = {}
    for folder in folders:
        for path in folder.glob("*/**/*.yaml"):
            group, *choice = path.relative_to(folder).with_suffix("").parts
            if group != MACHINES:
                found.setdefault(group, set()).add("/".join(choice))
    return {group: sorted(names) for group, names in sorted(found.items())}


def _misspelt_group(override: Override, groups: Mapping[str, Sequence[str]]) -> str | None:
    """Return the group that a name such as `experimnt` means, None when it may be a setting."""
    key = override.key_or_group
    is_choice = isinstance(override.value(), str) and "." not in key
    return closest(key, groups) if is_choice and key not in RunConfig().__dict__ else None


def _unreadable(text: str, groups: Mapping[str, Sequence[str]]) -> str:
    if "=" in text:
        return (
            f"{text} cannot be read as name=value. Quote a value with special characters twice: "
            f"'{text.split('=')[0]}=\"..\"'."
        )
    group = next((g for g, names in groups.items() if text.lstrip("+") in names), None)
    advice = f"Did you mean {group}={text.lstrip('+')}?" if group else "Settings read name=value."
    return f"{text} is neither an option nor a setting. {advice}"


def _choose(
    override: Override, names: Sequence[str], choices: dict[str, str | None]
) -> Iterator[str]:
    """Record which file of a group to use, or yield why it cannot be used."""
    group, choice = override.key_or_group, override.value()
    if override.is_delete() or choice is None:
        choices[group] = None
    elif choice in names:
        choices[group] = str(choice)
    else:
        guess = closest(str(choice), names)
        yield (
            f"{group}={choice} names no file in configs/{group}/. Choose one of "
            f"{', '.join(names)}{f' (did you mean {guess}?)' if guess else ''}, "
            f"or add a folder of your own files with --config-dir."
        )


def _compose_yaml(
    config_name: str, choices: Mapping[str, str | None], config_dirs: Sequence[Path]
) -> tuple[dict[str, Any], Problems]:
    """Let hydra merge the YAML files, without a schema; fall back to the default when it fails."""
    folders = [CONFIGS, *config_dirs]
    # Hydra looks for the file to start from in one folder only.
    home = next((f for f in folders if (f / f"{config_name}.yaml").is_file()), CONFIGS)
    search = ",".join(f"file://{folder}" for folder in folders if folder != home)
    overrides = [f"hydra.searchpath=[{search}]"] if search else []
    overrides += _spell_choices(home / f"{config_name}.yaml", choices)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(home), version_base="1.3"):
        try:
            return _plain(hydra_compose(config_name, overrides)), []
        except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
            problem = (
                f"The YAML files do not compose: {_one_line(error)}. Fix the file named above."
            )
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return _plain(hydra_compose("pretrain")), [problem]


def _spell_choices(primary: Path, choices: Mapping[str, str | None]) -> list[str]:
    """Write choices as hydra requires: a plus for groups that the defaults list does not have.

    Users may write either form; `+experiment=stage1` and `experiment=stage1` mean the same here.
    """
    listed = _default_groups(primary)
    spelled = {
        group: f"{group}={name}" if group in listed else f"+{group}={name}"
        for group, name in choices.items()
        if name is not None
    }
    dropped = [f"~{group}" for group, name in choices.items() if name is None and group in listed]
    return [*spelled.values(), *dropped]


def _default_groups(primary: Path) -> set[str]:
    """Groups in the defaults list of the YAML file that a run starts from."""
    try:
        tree = yaml.safe_load(primary.read_text())
    except (OSError, yaml.YAMLError):
        return set()  # hydra reports the mistake
    entries = tree.get("defaults", []) if isinstance(tree, dict) else []
    return {str(group) for entry in entries if isinstance(entry, dict) for group in entry}


def _plain(config: DictConfig) -> dict[str, Any]:
    tree = OmegaConf.to_container(config, resolve=False)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _apply(schema: DictConfig, override: Override) -> Problems:
    """Apply one override to the schema."""
    name, where = override.key_or_group, "the command line"
    if name.split(".")[0] == "hydra":
        return [f"{name} has no effect: output=FOLDER sets where a run writes. Remove it."]
    if override.is_delete():
        return delete(schema, name)
    tree: Any = override.value()
    for part in reversed(name.split(".")):
        tree = {part: tree}
    return overlay(schema, tree, "", where)
