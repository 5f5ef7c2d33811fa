# SPDX-License-Identifier: Apache-2.0
"""How the toy family reads a sample: `Q: ~ What is it?` and `A: An owl.`, a line each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from owl.config.run import ImageLibrary, ModelConfig
from owl.data.encode.images import decode_picture
from owl.data.encode.tokenizer import Tokenizer
from owl.portable.pieces_owl import Control, Piece, RenderedTurn, Text, Tile
from owl.portable.pixels_owl import resize_with_torch

NAMES = {"system": "S", "user": "Q", "assistant": "A"}


@dataclass(frozen=True)
class Picture:
    """A picture, shown as one tile."""

    files: tuple[str, ...]
    tiles: int = 1


@dataclass(frozen=True)
class ToyReading:
    """Implements owl.data.families.Reading."""

    image_size: int

    controls: ClassVar[Sequence[str]] = ("<|endoftext|>",)
    literals: ClassVar[Sequence[str]] = ("~",)
    published_cut_share: ClassVar[float] = 0.0

    @classmethod
    def of_model(cls, model: ModelConfig) -> "ToyReading":
        """Take what it needs from a model's settings."""
        return cls(model.vision_tower.image_size)

    @property
    def settings(self) -> Mapping[str, str]:
        """Model settings on which tokens and tiles depend."""
        return {"model.family": "toy", "model.vision_tower.image_size": str(self.image_size)}

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Accept every tokenizer."""

    def show(self, media: Any, *_: Any, **__: Any) -> Picture:
        """Show every picture as one tile."""
        return Picture((media.file,))

    def write(self, shown: Picture) -> Iterator[Piece]:
        """Yield a tile."""
        yield Tile()

    def turns(self, turns: Sequence[RenderedTurn[Piece]]) -> Iterator[Piece]:
        """Yield a line for each turn."""
        for turn in turns:
            yield Text(f"{NAMES[turn.role]}: ")
            yield from turn.content
            yield Text("\n", turn.weight)

    def answer(self) -> Iterator[Piece]:
        """Yield what opens an answer."""
        yield Text("A: ", closed=True)

    def end(self, weight: float) -> Iterator[Piece]:
        """Yield `<|endoftext|>`."""
        yield Control("<|endoftext|>", weight)

    def placeholder(self, tokenizer: Tokenizer, tile: Tile) -> Sequence[int]:
        """Hold the place of a tile with two tokens."""
        return tokenizer.encode("~~")

    def pixels(self, files: Sequence[bytes], shown: Picture, library: ImageLibrary) -> Tensor:
        """Resize a picture to one tile: [1, 3, s, s] uint8."""
        (data,) = files
        return resize_with_torch(decode_picture(data, library), self.image_size, self.image_size)[
            None
        ]

    def no_pixels(self) -> Tensor:
        """[0, 3, s, s] uint8."""
        return torch.empty(0, 3, self.image_size, self.image_size, dtype=torch.uint8)

    def positions(
        self, tokens: Sequence[int], offsets: Sequence[int], tiles: Sequence[Tile]
    ) -> Tensor:
        """Every token takes one position: [t] int64."""
        return torch.arange(len(tokens))
