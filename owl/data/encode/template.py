# SPDX-License-Identifier: Apache-2.0
"""A document as a model reads it: text, control tokens and tiles, in order."""

from collections.abc import Iterator, Sequence

from owl.data.families import Reading
from owl.data.shards.document import Document, TextPart, Turn
from owl.data.shown import Shown
from owl.portable.pieces_owl import Piece, RenderedTurn, Text


def render_sample(document: Document, places: Sequence[Shown], reading: Reading) -> Iterator[Piece]:
    """Yield the pieces of a complete sample, for training.

    Args:
        document: a checked owl3-sample/1.
        places: how each place of the text shows its media, in order.
        reading: the family's template.
    """
    yield from _render_turns(document.turns, places, reading)
    yield from reading.end(document.turns[-1].end_weight)


def render_prompt(document: Document, places: Sequence[Shown], reading: Reading) -> Iterator[Piece]:
    """Yield the pieces of a conversation up to where the assistant's next answer begins.

    A trailing assistant turn is left out. A document is left open where it ends.
    """
    yield from _render_turns(document.prompt().turns, places, reading)
    if document.kind != "document":
        yield from reading.answer()


def _render_turns(
    turns: Sequence[Turn], places: Sequence[Shown], reading: Reading
) -> Iterator[Piece]:
    remaining = iter(places)
    return reading.turns(
        [
            RenderedTurn(turn.role, _render_content(turn, remaining, reading), turn.end_weight)
            for turn in turns
        ]
    )


def _render_content(turn: Turn, places: Iterator[Shown], reading: Reading) -> Iterator[Piece]:
    for part in turn.content:
        if isinstance(part, TextPart):
            yield Text(part.text, turn.weight_of(part))
        else:
            yield from reading.write(next(places))
