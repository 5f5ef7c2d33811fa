# SPDX-License-Identifier: Apache-2.0
"""Loads a folder's tokenizer, and prepares it for the processor."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.decoders import ByteLevel
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from owl.portable.marks_owl import CONTROL_LITERALS
from owl.portable.sentencepiece_owl import as_sentencepiece

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 splits text before merging: published with its tokenizer."""


def load_hf_tokenizer(folder: str | Path, **kwargs: Any) -> PreTrainedTokenizerBase:
    """Load a folder's tokenizer, even if tokenizer_config.json is missing.

    Raises:
        ValueError: a local folder holds no tokenizer files.
    """
    local = Path(folder)
    if local.is_dir() and not (local / "tokenizer_config.json").is_file():
        # AutoTokenizer would infer the class from model_type, which it does not know.
        rust = _bare_tokenizer(local)
        is_qwen = rust.token_to_id("<|im_end|>") is not None
        return PreTrainedTokenizerFast(tokenizer_object=rust, **(_QWEN2 if is_qwen else _LLAMA))
    return AutoTokenizer.from_pretrained(folder, **kwargs)


_QWEN2 = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
_LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
"""Names of the control tokens where tokenizer_config.json is missing."""


def _bare_tokenizer(folder: Path) -> RustTokenizer:
    """Read tokenizer.json, or Qwen2's vocab.json and merges.txt."""
    if (folder / "tokenizer.json").is_file():
        return RustTokenizer.from_file(str(folder / "tokenizer.json"))
    files = [folder / "vocab.json", folder / "merges.txt"]
    if not all(file.is_file() for file in files):
        raise ValueError(
            f"{folder} holds no tokenizer: neither tokenizer.json nor vocab.json and merges.txt. "
            "Copy them from the model that this one was trained from."
        )
    rust = RustTokenizer(BPE.from_file(*map(str, files)))
    rust.normalizer = normalizers.NFC()
    rust.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    rust.decoder = ByteLevel()
    rust.add_special_tokens(list(CONTROL_LITERALS))  # numbered after the vocabulary, in order
    return rust


def control_ids(
    tokenizer: PreTrainedTokenizerBase, literals: Sequence[str] = CONTROL_LITERALS
) -> dict[str, int]:
    """Look up the ids of control tokens; ValueError if one is missing."""
    known = tokenizer.get_vocab()
    missing = [literal for literal in literals if literal not in known]
    if missing:
        raise ValueError(
            f"the tokenizer has no token {', '.join(missing)}. Use the model's own tokenizer."
        )
    return {literal: known[literal] for literal in literals}


def without_controls(tokenizer: PreTrainedTokenizerBase) -> RustTokenizer:
    """Copy the tokenizer without its added tokens: it reads their literals as ordinary text.

    Raises:
        ValueError: it is not a fast tokenizer.
    """
    rust = getattr(tokenizer, "backend_tokenizer", None)
    if rust is None:
        raise ValueError(
            f"{type(tokenizer).__name__} is not a fast tokenizer. Load it with use_fast=True."
        )
    definition = json.loads(rust.to_str())
    definition["added_tokens"] = []
    definition["post_processor"] = None
    as_sentencepiece(definition)
    # The transformers class may set these for a call; here every text is read completely.
    definition["truncation"] = definition["padding"] = None
    return RustTokenizer.from_str(json.dumps(definition))
