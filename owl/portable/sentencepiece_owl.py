# SPDX-License-Identifier: Apache-2.0
"""Makes a LLaMA tokenizer.json read text as SentencePiece does, whoever wrote it.

Training and owl.hf share this module, and a copy of it travels with exported folders.
"""

from typing import Any

SPACE = "\u2581"


def as_sentencepiece(definition: dict[str, Any]) -> None:
    """Let a text begin with a space of its own, even if it has one already.

    SentencePiece puts a space before every text, and so do the files that transformers 4 wrote.
    transformers 5 writes a pre-tokenizer that leaves out the second of two: ` ASSISTANT:` after a
    picture would have a token less than in the published models.

    Args:
        definition: a parsed tokenizer.json; changed in place, if it is such a file.
    """
    before = definition.get("pre_tokenizer") or {}
    if before.get("type") != "Metaspace" or before.get("prepend_scheme") == "never":
        return
    if not definition["model"].get("byte_fallback") or before.get("split", True):
        return
    definition["pre_tokenizer"] = None
    definition["normalizer"] = {
        "type": "Sequence",
        "normalizers": [
            *filter(None, [definition.get("normalizer")]),
            {"type": "Prepend", "prepend": SPACE},
            {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        ],
    }
