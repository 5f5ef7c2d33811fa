# SPDX-License-Identifier: Apache-2.0
"""Multiple choice: options as lines, and the letter that an answer means."""

import re
import string
from collections.abc import Sequence

from owl.evaluate.vqa import normalise

SUFFIX = "Answer with the option\u2019s letter from the given choices directly."
"""As mPLUG-Owl2 publishes it, typographic apostrophe included."""

_SAID = re.compile(
    r"\b(?:answer|option|choice)\b(?:\s+(?:is|would be))?\s*:?\s*\(?([A-Z])\b", re.IGNORECASE
)

# `A` and `I` before a word in lower case are words themselves.
_ALONE = re.compile(r"(?<![\w'])([B-HJ-Z]|[AI](?!\s+[a-z]))(?![\w'])")


def with_options(question: str, options: Sequence[str]) -> str:
    """Write the options below a question, a line each, as `A. red`."""
    lines = [f"{string.ascii_uppercase[i]}. {text}" for i, text in enumerate(options)]
    return "\n".join([question, *lines])


def chosen_option(answer: str, options: Sequence[str]) -> int | None:
    """Return the index of the option that an answer means, None if that is not clear.

    In this order: the letter alone or first, as `B`, `(b)`, `B. red` or `B: red`; `the answer is B`
    and the like; the text of an option; a single capital letter, or the text of a single option,
    inside a sentence.
    """
    text, letters = answer.strip(), string.ascii_uppercase[: len(options)]
    leading = re.match(r"\(?([A-Za-z])(?:[.):,]|\s*$|\s*\n|\s+[-\u2013]\s)", text)
    if leading and leading[1].upper() in letters:
        return letters.index(leading[1].upper())
    said = [found.upper() for found in _SAID.findall(text)]
    if said and said[-1] in letters:
        return letters.index(said[-1])
    plain, texts = normalise(text), [normalise(option) for option in options]
    if plain in texts:
        return texts.index(plain)
    alone = set(_ALONE.findall(text)) & set(letters)
    if len(alone) == 1:
        return letters.index(alone.pop())
    named = [index for index, option in enumerate(texts) if _has_words(plain, option)]
    return named[0] if len(named) == 1 else None


def right_option(answer: str, options: Sequence[str]) -> int | None:
    """Return the index of the option that a reference names by its text or its letter."""
    if answer in options:
        return list(options).index(answer)
    letters = string.ascii_uppercase[: len(options)]
    letter = answer.strip().upper().strip("().")
    return letters.index(letter) if len(letter) == 1 and letter in letters else None


def _has_words(text: str, words: str) -> bool:
    return bool(words) and f" {words} " in f" {text} "
