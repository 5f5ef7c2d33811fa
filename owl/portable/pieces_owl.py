# SPDX-License-Identifier: Apache-2.0
"""The pieces of a text with media in it: plain text, control tokens and tiles.

A writer returns pieces, not one string: which tokens are control tokens and where tiles are placed
is known by construction and never searched for in text. Training and owl.hf share this module, and
a copy of it travels with exported folders.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

CONTEXT = 0.0
"""Loss weight of what is read but not learned."""


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text; neighbours of equal weight are tokenised as one, unless the first is closed."""

    text: str
    weight: float = CONTEXT
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Control:
    """One control token."""

    literal: str
    weight: float = CONTEXT


@dataclass(frozen=True, slots=True)
class Tile:
    """The placeholder of one encoded picture. Never learned."""


Piece = Text | Control | Tile
Other = TypeVar("Other")
"""What a caller puts between pieces, such as a mark whose tiles are not known yet."""


@dataclass(frozen=True)
class RenderedTurn(Generic[Other]):
    """A turn on its way into the text."""

    role: str
    content: Iterable[Piece | Other]
    weight: float  # of the token that ends the turn


def join_text(pieces: Iterable[Piece | Other]) -> Iterator[Piece | Other]:
    """Join neighbouring text of equal weight, since the published processor tokenises it as one."""
    held: Text | None = None
    for piece in pieces:
        if (
            isinstance(piece, Text)
            and held is not None
            and not held.closed
            and piece.weight == held.weight
        ):
            held = Text(held.text + piece.text, held.weight, piece.closed)
            continue
        if held is not None:
            yield held
        held = piece if isinstance(piece, Text) else None
        if held is None:
            yield piece
    if held is not None:
        yield held
