# SPDX-License-Identifier: Apache-2.0
"""Put a copy of this code into an exported folder, for users who load with trust_remote_code.

What travels is what the entry modules of a family's `hf/` folder import of ours, directly or
through each other; in the exported folder all of it lies side by side, so names are unique.
"""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import owl

AUTO_MAP = {
    "AutoConfig": "configuration_owl3.Owl3Config",
    "AutoModel": "modeling_owl3.Owl3ForConditionalGeneration",
    "AutoModelForCausalLM": "modeling_owl3.Owl3ForConditionalGeneration",
    "AutoModelForImageTextToText": "modeling_owl3.Owl3ForConditionalGeneration",
    "AutoProcessor": "processing_owl3.Owl3Processor",
}
"""What config.json says under auto_map where the code goes along."""

ENTRIES = ("owl.families.owl3.hf.modeling_owl3", "owl.families.owl3.hf.processing_owl3")
ROOT = Path(owl.__file__).parents[1]
OWL_IMPORT = re.compile(r"^from owl\.[\w.]+\.(\w+) import ", re.MULTILINE)


def code_files(entries: tuple[str, ...] = ENTRIES) -> list[Path]:
    """Modules that travel: the entries and all of ours that they import, by name."""
    found: dict[str, Path] = {}
    waiting = list(entries)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found[module] = ROOT / f"{module.replace('.', '/')}.py"
            waiting += _imports(found[module])
    return sorted(found.values(), key=lambda file: file.name)


def _imports(file: Path) -> Iterator[str]:
    """Modules of ours that a module imports."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("owl."):
            yield str(node.module)


def travelling(code: str) -> str:
    """Rewrite a module for a folder in which all that it needs lies beside it."""
    return OWL_IMPORT.sub(r"from .\1 import ", code)


def copy_code(folder: Path) -> list[Path]:
    """Copy the code into a folder and point its config.json and processor_config.json there.

    Args:
        folder: of an exported model.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: the folder holds no config.json.
    """
    copied = []
    for source in code_files():
        copy = folder / source.name
        copy.write_text(travelling(source.read_text(encoding="utf-8")), encoding="utf-8")
        copied.append(copy)
    _point(folder / "config.json", AUTO_MAP)
    settings = folder / "processor_config.json"
    if settings.is_file():
        _point(settings, {"AutoProcessor": AUTO_MAP["AutoProcessor"]})
    return copied


def _point(file: Path, auto_map: dict[str, str]) -> None:
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    values["auto_map"] = auto_map
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
