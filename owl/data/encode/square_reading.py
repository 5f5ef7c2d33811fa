# SPDX-License-Identifier: Apache-2.0
"""What readings have in common whose pictures are square tiles that stand in the text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from owl.config.run import FamilyKind, ImageLibrary, PictureFit
from owl.data.encode.images import decode_picture
from owl.data.encode.oversize import choose_frames
from owl.data.encode.tokenizer import Tokenizer
from owl.data.shards.document import FramesMedia, Media, MediaPart
from owl.data.shown import CutChoice, Sizes
from owl.portable.pieces_owl import Piece, Tile
from owl.portable.pixels_owl import FITS, Fit, resize_with_pillow, resize_with_torch


@dataclass(frozen=True, slots=True)
class Squares:
    """A picture, or the frames of a clip: one tile each."""

    files: tuple[str, ...]

    @property
    def tiles(self) -> int:
        """Encoded pictures that it gives."""
        return len(self.files)


@dataclass(frozen=True)
class SquareReading:
    """The media half of owl.data.families.Reading; a family adds its text.

    Args:
        template: published version of the text around pictures.
        image_size: side of a tile in pixels, s.
        fit: how a picture becomes square.
        tokens_per_tile: placeholder tokens of a tile, as many as the vectors that replace them.
    """

    template: str
    image_size: int
    fit: PictureFit
    tokens_per_tile: int

    family: ClassVar[FamilyKind]
    fits: ClassVar[Mapping[str, Fit]] = FITS
    literals: ClassVar[Sequence[str]] = ()
    """Nothing that is typed can pass for a placeholder: its place is noted, its ids are any."""
    published_cut_share: ClassVar[float] = 0.0

    @property
    def settings(self) -> Mapping[str, str]:
        """Model settings on which tokens and tiles depend."""
        return {
            "model.family": str(self.family),
            "model.template": self.template,
            "model.vision_tower.image_size": str(self.image_size),
            f"model.{self.family}.fit": str(self.fit),
            "tokens per picture": str(self.tokens_per_tile),
        }

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Accept every tokenizer with the control tokens: a placeholder's ids are not read."""

    def show(
        self,
        media: Media,
        part: MediaPart,
        sizes: Sizes,
        cut: CutChoice,
        *,
        alone: bool,
        max_frames: int | None,
    ) -> Squares:
        """Show a clip as frames and a picture as one tile: these families cut none."""
        if not isinstance(media, FramesMedia):
            return Squares(tuple(media.files))
        frames = choose_frames(part.frame_range(media), max_frames)
        return Squares(tuple(media.files[frame] for frame in frames))

    def write(self, shown: Squares) -> Iterator[Piece]:
        """Yield the tiles, with nothing between."""
        yield from [Tile()] * shown.tiles

    def placeholder(self, tokenizer: Tokenizer, tile: Tile) -> Sequence[int]:
        """As many ids as vectors will stand there. Their embeddings are replaced: 0 will do."""
        return [0] * self.tokens_per_tile

    def pixels(self, files: Sequence[bytes], shown: Squares, library: ImageLibrary) -> Tensor:
        """Decode each file and make it square: [m, 3, s, s] uint8."""
        resize = resize_with_pillow if library == ImageLibrary.pillow else resize_with_torch
        fit = self.fits[self.fit]
        tiles = [fit(decode_picture(data, library), self.image_size, resize) for data in files]
        return torch.stack(tiles)

    def no_pixels(self) -> Tensor:
        """[0, 3, s, s] uint8."""
        return torch.empty(0, 3, self.image_size, self.image_size, dtype=torch.uint8)

    def positions(
        self, tokens: Sequence[int], offsets: Sequence[int], tiles: Sequence[Tile]
    ) -> Tensor:
        """Every token takes one position, a picture's vectors too: [t] int64."""
        return torch.arange(len(tokens))
