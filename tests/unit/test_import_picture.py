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
# What training and owl.hf share travels along inside exported folders: files of their own.
TRAVELLERS = {"owl.config.limits_owl3", "owl.data.markup_owl3", "owl.data.tiles_owl3"}
ABOVE_ALL = {"parity", "demo", "chat"}  # command lines of their own; they may use everything
FILES = sorted(
    path for path in OWL.rglob("*.py") if path.relative_to(OWL).parts[0] not in ABOVE_ALL
)


def imported_modules(path: Path) -> Iterator[str]:
    """Yield `owl.data.tiles_owl3.Grid` for `from owl.data.tiles_owl3 import Grid`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name for name in names if name.startswith("owl."))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(OWL)))
def test_a_file_imports_only_what_stands_to_its_left(path: Path):
    here = path.relative_to(OWL).parts[0].removesuffix(".py")
    for module in imported_modules(path):
        there = module.split(".")[1]
        if here == "hf" and module.rpartition(".")[0] in TRAVELLERS:
            continue
        if there in (here, "__version__") or (here, there) in ALLOWED:
            continue
        assert there in RANK, f"owl.{there} stands above the flow; {path.name} may not need it"
        assert RANK[there] < RANK[here], f"owl.{here} imports owl.{there}, which is to its right"


@pytest.mark.parametrize("module", sorted(TRAVELLERS))
def test_what_travels_with_an_exported_folder_needs_nothing_else_of_ours(module: str):
    path = OWL.parent / f"{module.replace('.', '/')}.py"
    needed = {name.rpartition(".")[0] for name in imported_modules(path)}
    assert needed <= TRAVELLERS
