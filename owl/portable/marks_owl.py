# SPDX-License-Identifier: Apache-2.0
"""Messages before their media are read: text in which marks hold the places of media."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from owl.portable.pieces_owl import CONTEXT, Piece, RenderedTurn, Text, Tile

CONTROL_LITERALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""The control tokens of Qwen2's tokenizer, by id."""
LEARNED = 1.0
"""Loss weight of the assistant's text."""


class Mark(StrEnum):
    """The place of a picture or a video in a text."""

    image = "<|image|>"
    video = "<|video|>"


@dataclass(frozen=True)
class Turn:
    """One message of a conversation."""

    role: str
    content: tuple[str | Mark, ...]

    @property
    def is_empty(self) -> bool:
        """Whether it has no content: an empty assistant turn at the end requests an answer."""
        return not any(self.content)

    @property
    def weight(self) -> float:
        """Loss weight of its text."""
        return LEARNED if self.role == "assistant" else CONTEXT

    def to_pieces(self) -> RenderedTurn[Mark]:
        """Convert its text to pieces; marks stay."""
        content = [
            part if isinstance(part, Mark) else Text(part, self.weight) for part in self.content
        ]
        return RenderedTurn(self.role, content, self.weight)


@dataclass(frozen=True)
class ChatFormat:
    """How a model family writes conversations."""

    render: Callable[[Sequence[Turn], bool], Iterator[Piece | Mark]]
    """Turns, and whether the header of the assistant's next answer follows, to pieces."""
    parse: Callable[[str], Iterator[Piece | Mark]]
    """A string that is already rendered to pieces."""


def number_media(pieces: Iterable[Piece | Mark]) -> Iterator[Piece | Mark]:
    """Write `Picture 1: ` before the first picture, `Video 1: ` before the first video, ..."""
    seen = {Mark.image: 0, Mark.video: 0}
    for piece in pieces:
        if isinstance(piece, Mark):
            seen[piece] += 1
            yield Text(f"{'Picture' if piece is Mark.image else 'Video'} {seen[piece]}: ")
        yield piece


def to_string(pieces: Iterable[Piece | Mark]) -> str:
    """Write pieces as one string, which a ChatFormat's parse reads back.

    Text after closed text is read by itself, and LLaMA's tokenizer begins it with a space: it is
    written here, unless there is one.
    """
    written, before = "", None
    for piece in pieces:
        is_apart = isinstance(before, Text) and before.closed and isinstance(piece, Text)
        literal = _literal(piece)
        if is_apart and not written[-1:].isspace() and not literal[:1].isspace():
            written += " "
        written += literal
        before = piece
    return written


def _literal(piece: Piece | Mark) -> str:
    if isinstance(piece, Mark):
        return piece.value
    if isinstance(piece, Tile):
        return Mark.image.value
    return piece.text if isinstance(piece, Text) else piece.literal


_MARKS = re.compile("|".join(re.escape(mark) for mark in Mark))
_LITERALS = re.compile("|".join(re.escape(literal) for literal in (*CONTROL_LITERALS, *Mark)))


def split_marks(text: str) -> tuple[str | Mark, ...]:
    """Split a user's text at `<|image|>` and `<|video|>`; control literals stay text."""
    return tuple(_split(text, _MARKS))


def split_literals(text: str) -> Iterator[str | Mark]:
    """Split a rendered string at marks and at CONTROL_LITERALS."""
    return _split(text, _LITERALS)


def _split(text: str, pattern: re.Pattern[str]) -> Iterator[str | Mark]:
    start = 0
    for match in pattern.finditer(text):
        if match.start() > start:
            yield text[start : match.start()]
        literal = match.group()
        yield Mark(literal) if literal in tuple(Mark) else literal
        start = match.end()
    if start < len(text):
        yield text[start:]
