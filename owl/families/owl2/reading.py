# SPDX-License-Identifier: Apache-2.0
"""How mPLUG-Owl2 reads a sample; its templates are in markup_owl2.

    <s>USER: <|image|>What is this? ASSISTANT: An owl.</s>

A picture is 65 placeholder tokens, which the model replaces by as many vectors.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from owl.config.run import FamilyKind, ModelConfig
from owl.data.encode.square_reading import SquareReading
from owl.families.owl2.markup_owl2 import BEGIN, END, PRETRAIN, start_answer, write_turns
from owl.families.owl2.tiles_owl2 import FITS
from owl.portable.pieces_owl import Control, Piece, RenderedTurn
from owl.portable.pixels_owl import Fit


@dataclass(frozen=True)
class Owl2Reading(SquareReading):
    """Implements owl.data.families.Reading."""

    family: ClassVar[FamilyKind] = FamilyKind.owl2
    fits: ClassVar[Mapping[str, Fit]] = FITS
    controls: ClassVar[Sequence[str]] = (BEGIN, END)

    @classmethod
    def of_model(cls, model: ModelConfig) -> Self:
        """Take what it needs from a model's settings."""
        tower, settings = model.vision_tower, model.owl2
        return cls(model.template, tower.image_size, settings.fit, model.keys_per_tile)

    def turns(self, turns: Sequence[RenderedTurn[Piece]]) -> Iterator[Piece]:
        """Yield a conversation or a document, but for what ends it."""
        yield from write_turns(turns, self.template, close_last=False)

    def answer(self) -> Iterator[Piece]:
        """Yield `ASSISTANT:`; nothing in pre-training, which has no roles."""
        if self.template != PRETRAIN:
            yield from start_answer()

    def end(self, weight: float) -> Iterator[Piece]:
        """Yield `</s>`."""
        yield Control(END, weight)
