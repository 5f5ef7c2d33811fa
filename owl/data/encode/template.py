# SPDX-License-Identifier: Apache-2.0
"""A document as a model reads it: text, control tokens and tiles, in order."""

from collections.abc import Iterator, Sequence

from owl.data.families import Reading
from owl.data.shards.schema import Json, part_weight, turn_weight
from owl.data.shown import Shown
from owl.portable.pieces_owl import Piece, RenderedTurn, Text


def render_sample(document: Json, places: Sequence[Shown], reading: Reading) -> Iterator[Piece]:
    """Yield the pieces of a complete sample, for training.

    Args:
        document: a checked owl3-sample/1.
        places: how each place of the text shows its media, in order.
        reading: the family's template.
    """
    turns = document["turns"]
    yield from _render_turns(turns, places, reading)
    yield from reading.end(turn_weight(turns[-1]))


def render_prompt(document: Json, places: Sequence[Shown], reading: Reading) -> Iterator[Piece]:
    """Yield the pieces of a conversation up to where the assistant's next answer begins.

    A trailing assistant turn is left out. A document is left open where it ends.
    """
    yield from _render_turns(prompt_turns(document), places, reading)
    if document["kind"] != "document":
        yield from reading.answer()


def prompt_turns(document: Json) -> list[Json]:
    """Turns that belong to the prompt: all but a final answer."""
    turns = list(document["turns"])
    return turns[:-1] if turns[-1]["role"] == "assistant" else turns


def _render_turns(
    turns: Sequence[Json], places: Sequence[Shown], reading: Reading
) -> Iterator[Piece]:
    remaining = iter(places)
    return reading.turns(
        [
            RenderedTurn(turn["role"], _render_content(turn, remaining, reading), turn_weight(turn))
            for turn in turns
        ]
    )


def _render_content(turn: Json, places: Iterator[Shown], reading: Reading) -> Iterator[Piece]:
    for part in turn["content"]:
        if "text" in part:
            yield Text(part["text"], part_weight(turn, part))
        else:
            yield from reading.write(next(places))
