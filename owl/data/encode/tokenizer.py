# SPDX-License-Identifier: Apache-2.0
"""Text to token ids, such that no text can become a control token.

The control tokens are added by id, where the template wants them; the tokenizer that reads text
does not know them, so `<|im_start|>` typed by a user comes out as six ordinary pieces.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.decoders import ByteLevel
from tokenizers.models import BPE

from owl.data.shards.schema import CONTROL_LITERALS
from owl.errors import DataError
from owl.portable.sentencepiece_owl import as_sentencepiece

QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 splits text before merging: published with its tokenizer."""

CONVERT = (
    "python -c \"import transformers; d = '{folder}'; "
    'transformers.LlamaTokenizerFast.from_pretrained(d).save_pretrained(d)"'
)
"""Command that makes a LLaMA's tokenizer.json out of its tokenizer.model."""


class Tokenizer:
    """A byte-pair tokenizer and the ids of its control tokens.

    Args:
        rust: reads text; must not know the control tokens.
        control_ids: literal of each control token -> id.
        content_hash: names the tokenizer's content in fingerprints and cache files.
    """

    def __init__(
        self, rust: RustTokenizer, control_ids: Mapping[str, int], content_hash: str
    ) -> None:
        self._rust = rust
        self.control_ids = control_ids
        self.content_hash = content_hash

    @property
    def im_start(self) -> int:
        """Id of `<|im_start|>`."""
        return self.control_ids["<|im_start|>"]

    @property
    def im_end(self) -> int:
        """Id of `<|im_end|>`."""
        return self.control_ids["<|im_end|>"]

    @property
    def end_of_text(self) -> int:
        """Id of `<|endoftext|>`."""
        return self.control_ids["<|endoftext|>"]

    @property
    def vocab_size(self) -> int:
        """Rows that an embedding table needs for every id."""
        return 1 + max(*self.control_ids.values(), *self._rust.get_vocab().values())

    def control_id(self, literal: str) -> int:
        """Id of a control token."""
        return self.control_ids[literal]

    def encode(self, text: str) -> list[int]:
        """Tokenise plain text; literals of control tokens in it stay plain text."""
        ids: list[int] = self._rust.encode(text, add_special_tokens=False).ids
        return ids

    def token_ends(self, text: str) -> list[int]:
        """For each token of `encode`, the characters of the text up to its end; never decreasing.

        Tokens that are halves of one character have the same end.
        """
        offsets = self._rust.encode(text, add_special_tokens=False).offsets
        return list(accumulate((end for _, end in offsets), max))

    def decode(self, ids: list[int]) -> str:
        """Turn ids back into text; control tokens are left out."""
        controls = set(self.control_ids.values())
        text: str = self._rust.decode([token for token in ids if token not in controls])
        return text


def load_tokenizer(folder: str | Path, controls: Sequence[str] = CONTROL_LITERALS) -> Tokenizer:
    """Load a folder with tokenizer.json, or with vocab.json and merges.txt (Qwen2's files).

    Args:
        folder: that holds the files.
        controls: literals of its control tokens.

    Raises:
        DataError: E404 when the folder holds neither, its files are damaged, or the control tokens
            are missing.
    """
    folder = Path(folder)
    problem = tokenizer_problem(folder)
    if problem:
        raise DataError("E404", f"tokenizer folder {str(folder)!r}: {problem}")
    try:
        if (folder / "tokenizer.json").is_file():
            return _from_json((folder / "tokenizer.json").read_bytes(), controls)
        return _from_vocabulary(folder / "vocab.json", folder / "merges.txt", controls)
    except DataError:
        raise
    except Exception as error:  # the tokenizers library raises nothing more precise
        raise DataError(
            "E404",
            f"the files in tokenizer folder {str(folder)!r} are not a tokenizer's: {error!r:.200}. "
            "Copy them again from the model that they belong to.",
        ) from error


def tokenizer_problem(folder: Path) -> str | None:
    """What a folder lacks to be a tokenizer's, None where it lacks nothing."""
    if not folder.is_dir():
        return "there is no such folder."
    complete = (folder / "tokenizer.json").is_file() or all(
        (folder / name).is_file() for name in ("vocab.json", "merges.txt")
    )
    if complete:
        return None
    if (folder / "tokenizer.model").is_file():
        return (
            "it holds tokenizer.model, which only SentencePiece reads, but no tokenizer.json. Make "
            f"one (pip install transformers sentencepiece): `{CONVERT.format(folder=folder)}`."
        )
    return "it holds neither tokenizer.json nor vocab.json and merges.txt."


def _from_json(content: bytes, controls: Sequence[str]) -> Tokenizer:
    definition: dict[str, Any] = json.loads(content)
    vocabulary = dict(definition["model"]["vocab"])
    added = {token["content"]: token["id"] for token in definition.get("added_tokens", [])}
    control_ids = _control_ids(vocabulary | added, controls)
    # Without its added tokens the tokenizer reads their literals as ordinary text.
    definition["added_tokens"] = []
    definition["post_processor"] = None
    as_sentencepiece(definition)
    rust = RustTokenizer.from_str(json.dumps(definition))
    return Tokenizer(rust, control_ids, _hash(content))


def _from_vocabulary(vocabulary: Path, merges: Path, controls: Sequence[str]) -> Tokenizer:
    ids: dict[str, int] = json.loads(vocabulary.read_text(encoding="utf-8"))
    # Qwen2 numbers its control tokens right after the vocabulary, in this order.
    next_id = max(ids.values()) + 1
    numbered = {"<|endoftext|>": next_id, "<|im_start|>": next_id + 1, "<|im_end|>": next_id + 2}
    rust = RustTokenizer(BPE.from_file(str(vocabulary), str(merges)))
    rust.normalizer = normalizers.NFC()
    rust.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_WORDS), "isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    rust.decoder = ByteLevel()
    return Tokenizer(
        rust,
        _control_ids(numbered | ids, controls),
        _hash(vocabulary.read_bytes() + merges.read_bytes()),
    )


def _control_ids(ids: Mapping[str, int], controls: Sequence[str]) -> dict[str, int]:
    known = {literal: ids[literal] for literal in controls if literal in ids}
    missing = [literal for literal in controls if literal not in known]
    if missing:
        raise DataError(
            "E404",
            f"the tokenizer has no token {', '.join(missing)}. Use that of the model's language "
            "model, or add them to tokenizer.json as special tokens.",
        )
    return known


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
