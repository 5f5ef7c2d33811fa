# SPDX-License-Identifier: Apache-2.0
"""Text that happens to contain markup, and how it can be kept as plain text.

A zero-width space behind the `<` keeps the look and breaks the spelling: neither the tokenizer nor
a template takes `<\\u200b|image|>` for a placeholder.
"""

from owl.data.shards.schema import FORBIDDEN_LITERALS
from owl.errors import DataError

BREAK = "\u200b"

ESCAPED = {literal: literal[0] + BREAK + literal[1:] for literal in FORBIDDEN_LITERALS}


def escape_text(text: str) -> str:
    """Break every forbidden literal.

    Raises:
        DataError: E206 the text already holds an escaped literal, so it could not be given back.
    """
    for literal, escaped in ESCAPED.items():
        if escaped in text:
            raise DataError(
                "E206",
                f"the text holds {escaped!r}, which is how {literal!r} is escaped. Remove the "
                "zero-width space from the source.",
            )
        text = text.replace(literal, escaped)
    return text


def unescape_text(text: str) -> str:
    """Undo escape_text."""
    for literal, escaped in ESCAPED.items():
        text = text.replace(escaped, literal)
    return text
