# SPDX-License-Identifier: Apache-2.0
"""Imports go one way, as CONTRIBUTING.md draws it: a file sees only what stands to its left."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

OWL = Path(__file__).parents[2] / "owl"
RANK = {
    **{"errors": 0, "logging": 0, "hf": 0},  # hf travels alone, inside exported folders
    "config": 1,
    "data": 2,
    "model": 3,
    "mcore": 4,
    "checkpoint": 5,
    **{"convert": 6, "train": 6},  # neither sees the other
}
# config asks the loader about folders, in a function, so that a config mistake shows at once.
# train makes the demo's data on first use, in a function too.
ALLOWED = {("config", "data"), ("train", "demo")}
ABOVE_ALL = {"parity", "demo", "chat"}  # command lines of their own; they may use everything
FILES = sorted(
    path for path in OWL.rglob("*.py") if path.relative_to(OWL).parts[0] not in ABOVE_ALL
)


def imported_packages(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            first, _, rest = name.partition(".")
            if first == "owl" and rest:
                yield rest.split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(OWL)))
def test_a_file_imports_only_what_stands_to_its_left(path: Path):
    here = path.relative_to(OWL).parts[0].removesuffix(".py")
    for there in imported_packages(path):
        if there in (here, "__version__") or (here, there) in ALLOWED:
            continue
        assert there in RANK, f"owl.{there} stands above the flow; {path.name} may not need it"
        assert RANK[there] < RANK[here], f"owl.{here} imports owl.{there}, which is to its right"
