# SPDX-License-Identifier: Apache-2.0
"""Imports go one way, as CONTRIBUTING.md draws it: a file sees only what stands to its left."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

OWL = Path(__file__).parents[2] / "owl"
RANK = {
    **dict.fromkeys(("errors", "logging", "progress", "portable"), 0),
    **dict.fromkeys(("config", "hf"), 1),
    "data": 2,
    **dict.fromkeys(("curate", "model"), 3),
    "mcore": 4,
    **dict.fromkeys(("checkpoint", "evaluate"), 5),
    **dict.fromkeys(("convert", "train"), 6),  # neither sees the other
    # Command lines of their own, and the one command that starts any of them.
    **dict.fromkeys(("parity", "demo", "chat"), 7),
    "command": 8,
}
PORTABLE = ("limits_", "variants_", "markup_", "tiles_")
FAMILY_FILES = {
    **dict.fromkeys(("config",), "config"),
    **dict.fromkeys(("reading", "positions", "work"), "data"),
    **dict.fromkeys(("published", "published_config", "start"), "convert"),
    "demo": "demo",
}
"""Room that a family's file imports like, by its name; any other file imports like the model."""

REGISTRIES = {
    "owl.config.families",
    "owl.data.families",
    "owl.model.families",
    "owl.convert.families",
    "owl.demo.families",
    "owl.hf",
}


def module_of(path: Path) -> str:
    parts = ("owl", *path.relative_to(OWL).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(OWL.rglob("*.py"))}


def family_of(module: str) -> str | None:
    """The family that a module belongs to."""
    parts = module.split(".")
    return parts[2] if parts[1:2] == ["families"] and len(parts) > 2 else None


def room_of(module: str) -> str:
    """The room whose imports a module's are judged by."""
    parts = module.split(".")
    if not family_of(module):
        return parts[1] if len(parts) > 1 else "errors"
    if parts[3:4] == ["hf"] or parts[-1].startswith(PORTABLE):
        return "portable"
    return FAMILY_FILES.get(parts[-1], "model")


@cache
def imported_modules(module: str) -> frozenset[str]:
    """Modules of ours that a module imports, wherever in it: `owl.data.rng`."""
    return frozenset(_imports(ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8")))))


def _imports(nodes: Iterator[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "owl":
            for alias in node.names:
                named = f"{node.module}.{alias.name}"
                yield named if named in MODULES else node.module


@pytest.mark.parametrize("module", MODULES)
def test_a_file_imports_only_what_stands_to_its_left(module: str):
    here = room_of(module)
    for there in (room_of(imported) for imported in imported_modules(module)):
        assert here == there or RANK[there] < RANK[here], f"{module} imports owl.{there}"


def test_no_shared_file_names_a_family_of_its_own():
    names = re.compile(r"owl[12]")
    shared = set(MODULES) - REGISTRIES - {"owl.config.choices"}  # which lists the families
    naming = [
        module
        for module in sorted(shared)
        if not family_of(module) and names.search(MODULES[module].read_text(encoding="utf-8"))
    ]
    assert naming == []


@pytest.mark.parametrize("module", [module for module in MODULES if not family_of(module)])
def test_only_registries_import_a_family(module: str):
    imported = sorted(filter(family_of, imported_modules(module)))
    assert not imported or module in REGISTRIES, (
        f"{module} imports {imported}: shared code gets a family handed in"
    )


def test_no_modules_import_each_other_in_a_circle():
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module in done:
            return
        package = module.rpartition(".")[0]
        for imported in sorted(imported_modules(module) | ({package} if package else set())):
            visit(imported, (*trail, module))
        done.add(module)

    for module in MODULES:
        visit(module, ())
