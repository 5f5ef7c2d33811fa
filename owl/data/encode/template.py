# SPDX-License-Identifier: Apache-2.0
"""A sample as the published models read it: text, control tokens and tiles, in order.

Newlines *precede* a turn, and the system prompt is empty unless given, unlike stock Qwen2:

    <|im_start|>system
    <|im_end|>
    <|im_start|>user
    <|image|>What is this?<|im_end|>
    <|im_start|>assistant
    An owl.<|im_end|><|endoftext|>
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from owl.data.shards.schema import Json, part_weight, turn_weight
from owl.families.owl3.markup_owl3 import Template, start_turn, write_turns
from owl.families.owl3.tiles_owl3 import Grid
from owl.portable.pieces_owl import Control, Piece, RenderedTurn, Text, Tile


@dataclass(frozen=True, slots=True)
class Picture:
    """How a picture is shown: cut into a grid, or as one tile."""

    grid: Grid | None = None

    @property
    def tiles(self) -> int:
        """Encoded pictures it gives."""
        return self.grid.tiles if self.grid else 1


@dataclass(frozen=True, slots=True)
class Clip:
    """How a video is shown: one tile per frame."""

    frames: int

    @property
    def tiles(self) -> int:
        """Encoded pictures it gives."""
        return self.frames


Layout = Picture | Clip
"""How one place in the text shows media."""


def render_sample(document: Json, layouts: Sequence[Layout], template: Template) -> Iterator[Piece]:
    """Write a whole sample for training.

    Args:
        document: a checked owl3-sample/1.
        layouts: one per place in the text that shows media, in order.
        template: the published version.
    """
    shown = iter(layouts)
    if document["kind"] == "document":
        (turn,) = document["turns"]
        yield from _content(turn, shown, template)
        yield Control("<|endoftext|>", turn_weight(turn))
        return
    yield from _conversation(document["turns"], shown, template)
    yield Control("<|endoftext|>", turn_weight(document["turns"][-1]))


def render_prompt(document: Json, layouts: Sequence[Layout], template: Template) -> Iterator[Piece]:
    """Write a conversation up to the point where the assistant's next answer begins.

    A trailing assistant turn is left out. A document is left open where it ends.
    """
    turns = prompt_turns(document)
    shown = iter(layouts)
    if document["kind"] == "document":
        yield from _content(turns[0], shown, template)
        return
    yield from _conversation(turns, shown, template)
    yield from start_turn("assistant")


def prompt_turns(document: Json) -> list[Json]:
    """Turns that belong to the prompt: all but a final answer."""
    turns = list(document["turns"])
    return turns[:-1] if turns[-1]["role"] == "assistant" else turns


def _conversation(
    turns: Sequence[Json], shown: Iterator[Layout], template: Template
) -> Iterator[Piece]:
    return write_turns(
        [
            RenderedTurn(turn["role"], _content(turn, shown, template), turn_weight(turn))
            for turn in turns
        ]
    )


def _content(turn: Json, shown: Iterator[Layout], template: Template) -> Iterator[Piece]:
    for part in turn["content"]:
        if "text" in part:
            yield Text(part["text"], part_weight(turn, part))
        else:
            yield from media_pieces(next(shown), template)


def media_pieces(layout: Layout, template: Template) -> Iterator[Piece]:
    """Write one picture or clip."""
    if isinstance(layout, Clip):
        yield from template.clip(layout.frames)
    elif layout.grid:
        yield from template.cut_picture(layout.grid)
    else:
        yield Tile()
