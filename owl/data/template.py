# SPDX-License-Identifier: Apache-2.0
"""A sample as the published models read it: text, control tokens and tiles, in order.

A template writes pieces, not one string: what is a control token and where a tile stands is known
by construction and never searched for in text. Newlines *precede* a turn, and the system prompt is
empty unless given, unlike stock Qwen2:

    <|im_start|>system
    <|im_end|>
    <|im_start|>user
    <|image|>What is this?<|im_end|>
    <|im_start|>assistant
    An owl.<|im_end|><|endoftext|>
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from owl.config.run import TemplateKind
from owl.data.images import Grid
from owl.data.schema import Json, part_weight, turn_weight

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


class Template(Protocol):
    """What the published versions write around tiles."""

    def cut_picture(self, grid: Grid) -> Iterator[Piece]:
        """Pieces of a picture that was cut: its cells row by row, then the global view."""

    def clip(self, frames: int) -> Iterator[Piece]:
        """Pieces of a video."""


class TemplateV2:
    """7B-240728: words, with a coordinate before each cell."""

    def cut_picture(self, grid: Grid) -> Iterator[Piece]:
        """Write `Cut to 2 rows 3 columns with a global view`, then `subimg(0,0)<|image|> ...`."""
        yield Text(f"Cut to {grid.rows} rows {grid.columns} columns with a global view\n")
        for row in range(grid.rows):
            for column in range(grid.columns):
                yield Text(f"subimg({row},{column})")
                yield Tile()
                yield Text(" " if column + 1 < grid.columns else "\n")
        yield Text("global_view")
        yield Tile()

    def clip(self, frames: int) -> Iterator[Piece]:
        """Write the frames side by side, with nothing between."""
        yield from [Tile()] * frames


class TemplateV3:
    """1B/2B-241014 and 7B-241101: marks around a picture's cells and a video's frames."""

    def cut_picture(self, grid: Grid) -> Iterator[Piece]:
        """Write `<|start_cut|>2*3`, the cells row by row, the global view, `<|end_cut|>`."""
        yield Text(f"<|start_cut|>{grid.rows}*{grid.columns}\n")
        for _ in range(grid.rows):
            for column in range(grid.columns):
                yield Tile()
                yield Text(" " if column + 1 < grid.columns else "\n")
        yield Tile()
        yield Text("<|end_cut|>")

    def clip(self, frames: int) -> Iterator[Piece]:
        """Write the frames side by side between two marks."""
        yield Text("<|start_video_frame|>")
        yield from [Tile()] * frames
        yield Text("<|end_video_frame|>")


TEMPLATES: dict[TemplateKind, Template] = {
    TemplateKind.v2: TemplateV2(),
    TemplateKind.v3: TemplateV3(),
}


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
    yield from _turn_start("assistant")


def prompt_turns(document: Json) -> list[Json]:
    """Turns that belong to the prompt: all but a final answer."""
    turns = list(document["turns"])
    return turns[:-1] if turns[-1]["role"] == "assistant" else turns


def _conversation(
    turns: Sequence[Json], shown: Iterator[Layout], template: Template
) -> Iterator[Piece]:
    if turns[0]["role"] != "system":
        yield from (Control("<|im_start|>"), Text("system\n"), Control("<|im_end|>"))
    for index, turn in enumerate(turns):
        yield from _turn_start(turn["role"], first=index == 0 and turn["role"] == "system")
        yield from _content(turn, shown, template)
        yield Control("<|im_end|>", turn_weight(turn))


def _turn_start(role: str, *, first: bool = False) -> Iterator[Piece]:
    if not first:
        yield Text("\n")
    yield Control("<|im_start|>")
    # A question is tokenised together with this newline, an answer is not (as published): an answer
    # that begins with a newline must read the same in training and after an open prompt.
    yield Text(f"{role}\n", closed=role == "assistant")


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
