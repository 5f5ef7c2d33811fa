# SPDX-License-Identifier: Apache-2.0
"""A LLaMA-like tokenizer without merges, in a test's folder: a token is a character or a byte."""

import json
from pathlib import Path

SPACE = "\u2581"
CONTROLS = ("<unk>", "<s>", "</s>")
CHARACTERS = SPACE + "".join(chr(code) for code in range(33, 127))


def write_llama_tokenizer(folder: Path, *, metaspace: bool = False) -> Path:
    """Write tokenizer.json as transformers 4 does, or (metaspace) as transformers 5 does."""
    tokens = [*CONTROLS, *(f"<0x{byte:02X}>" for byte in range(256)), *CHARACTERS]
    normalizers = [
        {"type": "Prepend", "prepend": SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    ]
    split = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}
    definition = {
        "version": "1.0",
        "added_tokens": [
            {"id": index, "content": content, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False, "special": True}
            for index, content in enumerate(CONTROLS)
        ],
        "normalizer": None if metaspace else {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": split if metaspace else None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [],
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
        },
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    return folder


def readable(tokens, weights, *, offsets=(), tile=0) -> str:
    """Write a sample token by token, with ~ for a tile and its learned stretches in brackets."""
    names = [*CONTROLS, *(f"<0x{byte:02X}>" for byte in range(256)), *CHARACTERS]
    text, learning, row = "", False, 0
    while row < len(tokens):
        text += "[" * (weights[row] > 0 and not learning) + "]" * (weights[row] == 0 and learning)
        learning = weights[row] > 0
        if row in offsets:
            text, row = text + "~", row + tile
            continue
        text, row = text + names[tokens[row]].replace("<0x0A>", "|"), row + 1
    return text + "]" * learning
