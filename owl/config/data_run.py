# SPDX-License-Identifier: Apache-2.0
"""The run that a data tool's command line describes, with the overrides that training takes."""

from collections.abc import Sequence
from pathlib import Path

from owl.config.command_line import read_command_line
from owl.config.load import compose
from owl.config.run import RunConfig
from owl.errors import ConfigError


def read_data_run(words: Sequence[str]) -> RunConfig:
    """Compose a run and check what its data depend on; GPUs and checkpoints are not needed.

    Args:
        words: overrides (`data=own data.sources.mine.path=DIR`), and --config-dir, --config-name.

    Raises:
        ConfigError: every problem at once.
    """
    line = read_command_line("pretrain", words)
    run, problems = compose(line.config_name, line.overrides, config_dirs=line.config_dirs)
    nodes = (run.model, run.data, run.pack, run.batch)
    problems = [*line.problems, *problems, *(p for node in nodes for p in node.problems())]
    if run.data.demo and not Path(run.data.demo_folder).is_dir():
        problems.append(
            f"data.demo_folder={run.data.demo_folder} does not exist: the first training run makes "
            "the demo's data. Run python pretrain_owl3.py, or name your own data with data=own."
        )
    if problems:
        raise ConfigError(problems)
    return run
