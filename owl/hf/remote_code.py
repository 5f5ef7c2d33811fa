# SPDX-License-Identifier: Apache-2.0
"""Copies a family's code into an exported folder, for users who load with trust_remote_code.

The modules that define the family's Auto classes are copied, and every module of owl that they
import, directly or through each other. In the exported folder all of them are side by side.
"""

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import owl
from owl.hf import AUTO_CLASSES

ROOT = Path(owl.__file__).parents[1]
OWL_IMPORT = re.compile(r"^from owl\.[\w.]+\.(\w+) import ", re.MULTILINE)


def code_files(entries: Iterable[str]) -> list[Path]:
    """List the files of `entries`, modules of owl, and of all modules of owl that they import."""
    found: dict[str, Path] = {}
    waiting = list(entries)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found[module] = ROOT / f"{module.replace('.', '/')}.py"
            waiting += _imports(found[module])
    return sorted(found.values(), key=lambda file: file.name)


def _imports(file: Path) -> Iterator[str]:
    """Modules of owl that a module imports."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("owl."):
            yield str(node.module)


def portable_code(file: Path, needed: Iterable[str] = ()) -> str:
    """Return a module's code for a folder that holds all that it needs beside it.

    Args:
        file: one of code_files.
        needed: names of modules to import as well.
    """
    code = OWL_IMPORT.sub(r"from .\1 import ", file.read_text(encoding="utf-8"))
    if needed:
        code += "\n# Of a local folder transformers 4 copies only what this file imports itself.\n"
    return code + "".join(f"from .{name} import __name__ as _{name}\n" for name in needed)


def copy_code(folder: Path) -> list[Path]:
    """Copy the code into a folder and write auto_map into its configs.

    Args:
        folder: of an exported model; its config.json and processor_config.json are changed.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: the folder holds no config.json.
        ValueError: its model_type is not one of owl.hf's.
    """
    config = folder / "config.json"
    model_type = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    if model_type not in AUTO_CLASSES:
        raise ValueError(
            f"{config}: model_type={model_type!r} must be one of {', '.join(AUTO_CLASSES)}: there "
            "is no code for any other model."
        )
    classes = AUTO_CLASSES[model_type]
    entries = {target.__module__ for target in classes.values()}
    copied = []
    for source in code_files(entries):
        needed = _needed(source) if _module(source) in entries else []
        copied.append(folder / source.name)
        copied[-1].write_text(portable_code(source, needed), encoding="utf-8")
    auto_map = {
        auto: f"{target.__module__.rpartition('.')[2]}.{target.__name__}"
        for auto, target in classes.items()
    }
    _add_auto_map(config, auto_map)
    settings = folder / "processor_config.json"
    if settings.is_file():
        _add_auto_map(settings, {"AutoProcessor": auto_map["AutoProcessor"]})
    return copied


def _module(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def _needed(entry: Path) -> list[str]:
    """Name the modules that an entry needs, directly or through each other."""
    return [file.stem for file in code_files([_module(entry)]) if file != entry]


def _add_auto_map(file: Path, auto_map: Mapping[str, str]) -> None:
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(values | {"auto_map": auto_map}, indent=2) + "\n", encoding="utf-8")
