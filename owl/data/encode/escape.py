# SPDX-License-Identifier: Apache-2.0
"""Text that contains the template's own markup, kept as plain text that cannot pass for it.

Control tokens are safe already: the tokenizer that reads text does not know them. But `<|image|>`
is plain text to it, so the word in a user's text would give the very ids of a placeholder. A break
inside each such word makes the tokenizer read its halves apart: the text decodes to the same
characters, and a placeholder's ids can only come from the template.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate

from owl.data.shards.document import Document, TextPart, Turn

BREAK = "\x00"
"""Marks where text is tokenised apart. No sample contains it: E208 refuses it."""

_INSIDE = 4
"""Characters of a literal before its break: within the word of `<|image|>`, as of all others."""


def escape_literals(document: Document, literals: Sequence[str]) -> Document:
    """Put a break inside every literal of a document's text."""
    if not literals:
        return document
    pattern = _pattern(tuple(literals))
    return replace(document, turns=[_escape_turn(turn, pattern) for turn in document.turns])


@lru_cache(maxsize=8)
def _pattern(literals: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, literals)))


def _escape_turn(turn: Turn, pattern: re.Pattern[str]) -> Turn:
    texts = turn.texts
    breaks = {match.start() + _INSIDE for match in pattern.finditer("".join(texts))}
    if not breaks:
        return turn
    starts = accumulate(map(len, texts), initial=0)
    content = [
        part._replace(text="".join(_with_breaks(part.text, start, breaks)))
        if isinstance(part, TextPart)
        else part
        for part, start in zip(turn.content, starts, strict=False)
    ]
    return turn._replace(content=content)


def _with_breaks(text: str, start: int, breaks: set[int]) -> Iterator[str]:
    for place, character in enumerate(text, start=start):
        if place in breaks:
            yield BREAK
        yield character
