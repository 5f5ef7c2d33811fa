# SPDX-License-Identifier: Apache-2.0
"""How mPLUG-Owl reads a sample; its template is in markup_owl1.

    <s>The following is a conversation between a curious human and AI assistant. ...
    Human: <image>
    Human: What is this?
    AI: An owl.</s>

A picture is 65 placeholder tokens, which the model replaces by as many vectors.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from owl.config.run import FamilyKind, ModelConfig
from owl.data.encode.square_reading import SquareReading, Squares
from owl.families.owl1.markup_owl1 import ANSWER, BEGIN, END, write_clip, write_turns
from owl.portable.pieces_owl import Control, Piece, RenderedTurn


@dataclass(frozen=True)
class Owl1Reading(SquareReading):
    """Implements owl.data.families.Reading."""

    family: ClassVar[FamilyKind] = FamilyKind.owl1
    controls: ClassVar[Sequence[str]] = (BEGIN, END)

    @classmethod
    def of_model(cls, model: ModelConfig) -> Self:
        """Take what it needs from a model's settings."""
        tower, settings = model.vision_tower, model.owl1
        return cls(model.template, tower.image_size, settings.fit, model.keys_per_tile)

    def write(self, shown: Squares) -> Iterator[Piece]:
        """Yield the tiles; the frames of a clip on a line each."""
        yield from write_clip(shown.tiles)

    def turns(self, turns: Sequence[RenderedTurn[Piece]]) -> Iterator[Piece]:
        """Yield a conversation or a document, but for what ends it."""
        yield from write_turns(turns, close_last=False)

    def answer(self) -> Iterator[Piece]:
        """Yield `AI: `."""
        yield ANSWER

    def end(self, weight: float) -> Iterator[Piece]:
        """Yield `</s>`."""
        yield Control(END, weight)
