# SPDX-License-Identifier: Apache-2.0
"""The tokenizer that a checkpoint was trained with, as its run's config.yaml names it."""

from pathlib import Path

import yaml

from owl.data.encode.tokenizer import tokenizer_problem

TOKENIZER_ONLY = (
    "tokenizer*", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
"""Patterns of the files to take from it: what else its folder holds belongs to another model."""


def run_tokenizer(checkpoint: Path) -> tuple[Path | None, str]:
    """Find the tokenizer of the run that a checkpoint belongs to.

    Args:
        checkpoint: RUN/checkpoints/step_...

    Returns:
        Its folder, and where that is written; None, and why there is none.
    """
    config = checkpoint.absolute().parent.parent / "config.yaml"
    if checkpoint.absolute().parent.name != "checkpoints" or not config.is_file():
        return None, "the checkpoint is not in a run folder with config.yaml"
    settings = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
    named = (settings.get("data") or {}).get("tokenizer")
    if not named:
        return None, f"{config} names none"
    problem = tokenizer_problem(Path(named))
    if problem:
        return None, f"data.tokenizer={named} in {config}: {problem}"
    return Path(named), f"data.tokenizer in {config}"
