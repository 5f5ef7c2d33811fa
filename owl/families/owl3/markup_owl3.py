# SPDX-License-Identifier: Apache-2.0
"""What the published models read around text and tiles: turns, cut pictures, video clips.

Training and owl.hf share this module, and a copy of it travels with exported folders: it imports
nothing of owl but other modules that travel.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from owl.families.owl3.tiles_owl3 import Grid
from owl.portable.pieces_owl import Control, Other, Piece, RenderedTurn, Text, Tile


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


TEMPLATES: dict[str, Template] = {"v2": TemplateV2(), "v3": TemplateV3()}


def write_turns(turns: Sequence[RenderedTurn[Other]]) -> Iterator[Piece | Other]:
    """Write a conversation, each turn closed.

    Newlines *precede* a turn, and the system prompt is empty unless given, unlike stock Qwen2.
    """
    if not turns or turns[0].role != "system":
        yield from (Control("<|im_start|>"), Text("system\n"), Control("<|im_end|>"))
    for index, turn in enumerate(turns):
        yield from start_turn(turn.role, first=index == 0 and turn.role == "system")
        yield from turn.content
        yield Control("<|im_end|>", turn.weight)


def start_turn(role: str, *, first: bool = False) -> Iterator[Text | Control]:
    """Write a turn's header; `first` at the very beginning of the text."""
    if not first:
        yield Text("\n")
    yield Control("<|im_start|>")
    # A question is tokenised together with this newline, an answer is not (as published): an answer
    # that begins with a newline must read the same in training and after an open prompt.
    yield Text(f"{role}\n", closed=role == "assistant")
