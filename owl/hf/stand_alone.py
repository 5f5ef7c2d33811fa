# SPDX-License-Identifier: Apache-2.0
"""Completes an exported folder, so that it loads where this project is not installed."""

import json
from pathlib import Path
from typing import Any

from owl.hf import AUTO_CLASSES
from owl.hf.remote_code import copy_code
from owl.portable.processing_owl import SETTINGS_FILE
from owl.portable.tokenizer_owl import load_hf_tokenizer


def complete_folder(folder: Path) -> list[str]:
    """Add the code, and what is missing of the files that transformers looks for.

    Args:
        folder: with config.json and weights, and a tokenizer unless it is added later.

    Returns:
        The names of the files that were added.

    Raises:
        FileNotFoundError: the folder holds no config.json.
        ValueError: its model_type is not one of owl.hf's.
    """
    before = {path.name for path in folder.iterdir()}
    model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if model_type in AUTO_CLASSES:  # otherwise copy_code says what is wrong
        classes: dict[str, Any] = AUTO_CLASSES[model_type]
        processor, config = classes["AutoProcessor"], classes["AutoConfig"].from_pretrained(folder)
        settings = {"processor_class": processor.__name__} | processor.settings_of(config)
        _write_missing(folder / SETTINGS_FILE, json.dumps(settings, indent=2) + "\n")
        _write_missing(folder / "chat_template.jinja", processor.template_of(settings))
        if config.eos_token_id is not None:
            ids = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id}
            _write_missing(folder / "generation_config.json", json.dumps(ids, indent=2) + "\n")
        _complete_tokenizer(folder)
    copy_code(folder)
    return sorted({path.name for path in folder.iterdir()} - before)


def _write_missing(file: Path, text: str) -> None:
    if not file.is_file():
        file.write_text(text, encoding="utf-8")


def _complete_tokenizer(folder: Path) -> None:
    """Name the tokenizer's class: AutoTokenizer cannot infer it from an unknown model type."""
    file = folder / "tokenizer_config.json"
    has_tokenizer = any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json"))
    if file.is_file() or not has_tokenizer:
        return
    load_hf_tokenizer(folder).save_pretrained(folder)
    saved = json.loads(file.read_text(encoding="utf-8"))
    # The name that every release knows.
    saved["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(saved, indent=2) + "\n", encoding="utf-8")
