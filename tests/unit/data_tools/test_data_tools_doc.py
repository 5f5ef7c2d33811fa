# SPDX-License-Identifier: Apache-2.0
"""docs/data_tools.md shows what the commands print: its blocks are run again here.

Renew them with `python -m tests.unit.data_tools.test_data_tools_doc`.
"""

import contextlib
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.unit.data_tools.command import REPOSITORY, run_tool
from tests.unit.data_tools.example import make_example

DOC = REPOSITORY / "docs/data_tools.md"
BLOCK = re.compile(r"```console\n\$ (owl data (?:.*\\\n)*.*)\n((?:.*\n)*?)```")


def run_block(command: str) -> str:
    """Run the command of a block in the current folder; return its output and exit code."""
    _, _, name, *arguments = shlex.split(command.replace("\\\n", " "))
    result = run_tool(f"data_tools/{name}.py", *arguments)
    # Standard error holds nothing else but progress, which a fast machine never shows.
    return result.stdout + (f"(exit code {result.returncode})\n" if result.returncode else "")


@contextlib.contextmanager
def example() -> Iterator[None]:
    """Change to a folder with the example."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        make_example(Path(folder))
        yield


def test_every_command_prints_what_the_page_says():
    blocks = BLOCK.findall(DOC.read_text(encoding="utf-8"))
    assert len(blocks) >= 8
    with example():
        for command, printed in blocks:
            assert run_block(command) == printed, command


def rewrite() -> None:
    """Write what the commands print now into the page."""
    with example():
        page = BLOCK.sub(
            lambda block: f"```console\n$ {block[1]}\n{run_block(block[1])}```",
            DOC.read_text(encoding="utf-8"),
        )
    DOC.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    rewrite()
