# SPDX-License-Identifier: Apache-2.0
"""Put a copy of this code into an exported folder, for users who load with trust_remote_code."""

import json
import re
from pathlib import Path
from typing import Any

AUTO_MAP = {
    "AutoConfig": "configuration_owl3.Owl3Config",
    "AutoModel": "modeling_owl3.Owl3ForConditionalGeneration",
    "AutoModelForCausalLM": "modeling_owl3.Owl3ForConditionalGeneration",
    "AutoModelForImageTextToText": "modeling_owl3.Owl3ForConditionalGeneration",
    "AutoProcessor": "processing_owl3.Owl3Processor",
}
"""What config.json says under auto_map where the code goes along."""


OWL_IMPORT = re.compile(r"^from owl\.\w+\.(\w+_owl3) import ", re.MULTILINE)


def code_files() -> list[Path]:
    """Modules that travel: owl.hf's, and those that it shares with the rest.

    They import nothing of owl but each other.
    """
    owl = Path(__file__).parents[1]
    return sorted(
        (file for part in ("hf", "data", "config") for file in (owl / part).glob("*_owl3.py")),
        key=lambda file: file.name,
    )


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
