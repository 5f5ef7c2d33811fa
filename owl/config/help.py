# SPDX-License-Identifier: Apache-2.0
"""The page that `--help` prints: examples, choices, and every setting with its description."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

from owl.config.settings import ANY_NAME, Setting, all_settings

_INTRO = """\
Train mPLUG-Owl3 on megatron-core.

  {command}                    the embedded demo, one process
  torchrun --nproc-per-node 2 --no-python {command} parallel=tp2          the same on two
  torchrun --nproc-per-node 8 --no-python {command} +experiment=stage2 \\
      model=owl3_7b_240728 scale=published parallel=tp4 \\
      --config-dir my_configs data=mine checkpoint.start_from=CHECKPOINT

In a checkout, `python {script}.py` and `torchrun {script}.py` do the same.

A group picks a YAML file (model=owl3_tiny), a setting a value (parallel.tensor=2). All mistakes are
reported at once, before anything starts.

Options:
  --help            this page
  --cfg job         print the complete configuration, resolved, and stop
  --config-dir DIR  search DIR for YAML files too; give it the layout of configs/ (data/mine.yaml)
  --config-name X   start from X.yaml instead of {script_config}.yaml
  dry_run=true      print the plan (layers, parameters, micro-batches) and stop
"""

_WIDTH = 100
_INDENT = " " * 8


def help_page(config_name: str, choices: Mapping[str, Sequence[str]]) -> str:
    """Write the page.

    Args:
        config_name: the YAML file that runs by default, which also names the entry script.
        choices: group -> the files one can choose in it.
    """
    command = "owl train" if config_name == "pretrain" else f"owl {config_name}"
    intro = _INTRO.format(command=command, script=f"{config_name}_owl3", script_config=config_name)
    return "\n".join([intro, *_choice_lines(choices), "", *_setting_lines(all_settings())])


def _choice_lines(choices: Mapping[str, Sequence[str]]) -> Iterator[str]:
    yield "Groups and their choices:"
    for group, names in choices.items():
        yield f"  {group + '=':<14}{' | '.join(names)}"


def _setting_lines(settings: Sequence[Setting]) -> Iterator[str]:
    yield f"Settings with the schema's default (YAML may differ); {ANY_NAME} is a name you choose:"
    for setting in settings:
        yield f"  {setting.name}={_shown(setting.default)}  ({setting.expects})"
        if setting.doc:
            yield textwrap.fill(
                setting.doc, _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT
            )


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return value.name if isinstance(value, StrEnum) else str(value)
