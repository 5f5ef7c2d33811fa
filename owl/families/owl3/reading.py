# SPDX-License-Identifier: Apache-2.0
"""How mPLUG-Owl3 reads a sample.

Newlines *precede* a turn, and the system prompt is empty unless given, unlike stock Qwen2:

    <|im_start|>system
    <|im_end|>
    <|im_start|>user
    <|image|>What is this?<|im_end|>
    <|im_start|>assistant
    An owl.<|im_end|><|endoftext|>
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Self

import torch
from torch import Tensor

from owl.config.run import ImageLibrary, ModelConfig
from owl.data.encode.images import decode_picture
from owl.data.encode.oversize import choose_frames
from owl.data.encode.tokenizer import Tokenizer
from owl.data.shards.document import FramesMedia, ImageMedia, Media, MediaPart
from owl.data.shards.schema import CONTROL_LITERALS, FORBIDDEN_LITERALS
from owl.data.shown import CutChoice, Sizes
from owl.errors import DataError
from owl.families.owl3.markup_owl3 import TEMPLATES, start_turn, write_turns
from owl.families.owl3.tiles_owl3 import Grid, choose_grid, make_tiles
from owl.portable.pieces_owl import Control, Piece, RenderedTurn, Tile
from owl.portable.pixels_owl import resize_with_pillow, resize_with_torch

IMAGE_PLACEHOLDER = "<|image|>"


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture, cut into a grid or shown as one tile."""

    file: str
    grid: Grid | None = None

    @property
    def files(self) -> Sequence[str]:
        """The picture's file."""
        return (self.file,)

    @property
    def tiles(self) -> int:
        """Encoded pictures that it gives."""
        return self.grid.tiles if self.grid else 1


@dataclass(frozen=True, slots=True)
class Clip:
    """A video: one tile per frame."""

    files: tuple[str, ...]

    @property
    def tiles(self) -> int:
        """Encoded pictures that it gives."""
        return len(self.files)


@dataclass(frozen=True)
class Owl3Reading:
    """Implements owl.data.families.Reading.

    Args:
        template: published version of the markup around tiles.
        image_size: side of a tile in pixels, s.
    """

    template: str
    image_size: int

    controls: ClassVar[Sequence[str]] = CONTROL_LITERALS
    literals: ClassVar[Sequence[str]] = FORBIDDEN_LITERALS
    published_cut_share: ClassVar[float] = 0.2
    """In instruction tuning (paper, section 3)."""

    @classmethod
    def of_model(cls, model: ModelConfig) -> Self:
        """Take what it needs from a model's settings."""
        return cls(model.template, model.vision_tower.image_size)

    @property
    def settings(self) -> Mapping[str, str]:
        """Model settings on which tokens and tiles depend. The family is not among them: lengths
        and cursors made before there were several families stay valid.
        """
        return {
            "model.template": self.template,
            "model.vision_tower.image_size": str(self.image_size),
        }

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Raise DataError E404 for a tokenizer that cannot write `<|image|>`."""
        placeholder = _placeholder(tokenizer)
        if not placeholder or tokenizer.decode(placeholder) != IMAGE_PLACEHOLDER:
            raise DataError(
                "E404",
                f"the tokenizer cannot write {IMAGE_PLACEHOLDER!r}: some of its characters are not "
                "in the vocabulary. Add them, or use a byte-level tokenizer.",
            )

    def show(
        self,
        media: Media,
        part: MediaPart,
        sizes: Sizes,
        cut: CutChoice,
        *,
        alone: bool,
        max_frames: int | None,
    ) -> Picture | Clip:
        """Show a clip as frames, and a picture as one tile or, if it is to be cut, as a grid."""
        if isinstance(media, FramesMedia):
            frames = choose_frames(part.frame_range(media), max_frames)
            return Clip(tuple(media.files[frame] for frame in frames))
        assert isinstance(media, ImageMedia), "video files are refused (E313)"
        wanted = (media.cut == "on" and cut >= CutChoice.marked) or (
            media.cut == "auto" and alone and cut == CutChoice.single
        )
        size = sizes[media.file] if wanted else None
        return Picture(media.file, choose_grid(*size, self.image_size) if size else None)

    def write(self, shown: Picture | Clip) -> Iterator[Piece]:
        """Yield a tile, or tiles with what the template writes around them."""
        template = TEMPLATES[self.template]
        if isinstance(shown, Clip):
            yield from template.clip(shown.tiles)
        elif shown.grid:
            yield from template.cut_picture(shown.grid)
        else:
            yield Tile()

    def turns(self, turns: Sequence[RenderedTurn[Piece]]) -> Iterator[Piece]:
        """Yield a conversation; of a document its content, with nothing around it."""
        if turns[0].role == "document":
            yield from turns[0].content
        else:
            yield from write_turns(turns)

    def answer(self) -> Iterator[Piece]:
        """Yield the header of the assistant's turn."""
        yield from start_turn("assistant")

    def end(self, weight: float) -> Iterator[Piece]:
        """Yield `<|endoftext|>`."""
        yield Control("<|endoftext|>", weight)

    def placeholder(self, tokenizer: Tokenizer, tile: Tile) -> Sequence[int]:
        """Ids of `<|image|>`, tokenised on its own: five plain tokens with Qwen2."""
        return _placeholder(tokenizer)

    def pixels(
        self, files: Sequence[bytes], shown: Picture | Clip, library: ImageLibrary
    ) -> Tensor:
        """Tiles of a picture (see make_tiles) or of a clip's frames: [m, 3, s, s] uint8."""
        grid = shown.grid if isinstance(shown, Picture) else None
        pictures = [read_tiles(data, self.image_size, grid, library) for data in files]
        return pictures[0] if len(pictures) == 1 else torch.cat(pictures)

    def no_pixels(self) -> Tensor:
        """[0, 3, s, s] uint8."""
        return torch.empty(0, 3, self.image_size, self.image_size, dtype=torch.uint8)

    def positions(
        self, tokens: Sequence[int], offsets: Sequence[int], tiles: Sequence[Tile]
    ) -> Tensor:
        """Every token takes one position: [t] int64."""
        return torch.arange(len(tokens))


@lru_cache(maxsize=8)
def _placeholder(tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode(IMAGE_PLACEHOLDER)


def read_tiles(
    data: bytes, image_size: int, grid: Grid | None, library: ImageLibrary = ImageLibrary.fast
) -> Tensor:
    """Decode a picture and make its tiles.

    Args:
        data: the picture's bytes.
        image_size: side of a tile, s.
        grid: None for a single tile.
        library: that decodes and resizes.

    Returns:
        [m, 3, s, s] uint8, see make_tiles.

    Raises:
        DataError: see decode_picture.
    """
    resize = resize_with_pillow if library == ImageLibrary.pillow else resize_with_torch
    return make_tiles(decode_picture(data, library), image_size, grid, resize)
