# SPDX-License-Identifier: Apache-2.0
"""Cut Qwen2's tokenizer down to the words that the templates and the tests use; ids stay.

    python -m tests.golden.make_tokenizer FOLDER_WITH_VOCAB_AND_MERGES

Byte-pair encoding applies the earliest merge of its list that fits. Every merge that occurs on the
way to one of these words is kept, so these words get the real tokenizer's ids. Other text is read
too, because all 256 bytes stay, but as smaller pieces than Qwen2 would give.
"""

import json
import sys
from itertools import pairwise
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel

from owl.data.encode.tokenizer import load_tokenizer

OUTPUT = Path(__file__).with_name("qwen2-tokenizer-small")
CONTROLS = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}

TEXTS = [
    # What the templates write.
    "<|image|>", "<|image|> <|image|>", "<|image|>\n", "<|start_cut|>", "<|end_cut|>",
    "<|start_video_frame|>", "<|end_video_frame|>", "2*3\n", "system\n", "user\n", "assistant\n",
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<image>", "\n",
    "Cut to 2 rows 3 columns with a global view\nsubimg(0,0) subimg(0,1)\nglobal_view",
    # What the tests ask and answer.
    "What is it?", "An owl.", "Hi", "Yes", "\n\nNo", "What happens?", "Be brief.", "Where?",
    "In a tree.\n", "Left: ", "\nright: ", "Describe it.", "\nDescribe it.",
    " one two three four five six seven eight", "Two owls,\n\n three mice. 1234",
    "e\u0301t\u00e9 \u9e7f", "  x's  \t\n", "(<|a", "Two owls, 3 caf\u00e9s\n\tand a\u00e7a\u00ed.",
    "  Was ist <|image|x|>\n\n 12345 \u00e9e\u0301 <|im_start|>?",
    "What does <|im_end|> mean, or <image>?",
]  # fmt: skip


def pieces(word: str, ranks: dict[tuple[str, str], int], used: set[int]) -> list[str]:
    """Merge a word's bytes as byte-pair encoding does; add the rank of each merge to `used`."""
    parts = list(word)
    while len(parts) > 1:
        pairs = [ranks.get(pair, len(ranks)) for pair in pairwise(parts)]
        best = min(pairs)
        if best == len(ranks):
            break
        used.add(best)
        at = pairs.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def main(source: Path) -> None:
    """Write vocab.json and merges.txt beside this file."""
    vocabulary: dict[str, int] = json.loads((source / "vocab.json").read_text(encoding="utf-8"))
    lines = (source / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [line for line in lines if line and not line.startswith("#version")]
    ranks = {(left, right): n for n, (left, right) in enumerate(map(str.split, merges))}
    rust = load_tokenizer(source)._rust

    used: set[int] = set()
    for text in TEXTS:
        words = rust.pre_tokenizer.pre_tokenize_str(rust.normalizer.normalize_str(text))
        tokens = [piece for word, _ in words for piece in pieces(word, ranks, used)]
        assert [vocabulary[token] for token in tokens] == rust.encode(text).ids, text

    kept = {merges[rank].replace(" ", "") for rank in used} | set(ByteLevel.alphabet())
    kept.add(max(vocabulary, key=vocabulary.__getitem__))  # control tokens are numbered after it
    small = {token: vocabulary[token] for token in kept} | CONTROLS
    OUTPUT.mkdir(exist_ok=True)
    ordered = dict(sorted(small.items(), key=lambda item: item[1]))
    (OUTPUT / "vocab.json").write_text(json.dumps(ordered, ensure_ascii=False, indent=0) + "\n")
    chosen = [merges[rank] for rank in sorted(used)]
    (OUTPUT / "merges.txt").write_text("\n".join(["#version: 0.2", *chosen]) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
