# SPDX-License-Identifier: Apache-2.0
"""Pictures to tiles: the published grids, and the resizing.

Training and owl.hf share this module, and a copy of it travels with exported folders: it imports
nothing of owl.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

Pixels = NDArray[np.uint8]
"""[height, width, 3]."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Rows and columns into which a picture is cut; the global view comes on top."""

    rows: int
    columns: int

    @property
    def tiles(self) -> int:
        """Encoded pictures that it gives, the global view included."""
        return self.rows * self.columns + 1


PUBLISHED_GRIDS = tuple(
    Grid(rows, columns)
    for rows, columns in ((2, 2), (1, 3), (1, 4), (3, 1), (4, 1), (2, 3), (3, 2))
)
"""The published choices in their order ("grid_squ_6"); 1x1 is not among them, so even a small
picture is cut."""


def choose_grid(
    width: int, height: int, image_size: int, grids: Sequence[Grid] = PUBLISHED_GRIDS
) -> Grid:
    """Pick the grid whose shape, then size, is closest to the picture's ("docowl").

    Each grid is a box of columns x rows tiles. It is compared by intersection over union with the
    picture's shape at the box's width (counts 100 times) and with the picture itself.

    Args:
        width: of the picture in pixels.
        height: of the picture in pixels.
        image_size: side of a tile in pixels.
        grids: choices, at least one.
    """

    def score(grid: Grid) -> float:
        box = (grid.columns * image_size, grid.rows * image_size)
        same_width = (box[0], box[0] * height / width)
        return 100 * _overlap(box, same_width) + _overlap(box, (width, height))

    return max(grids, key=score)  # the first of equals, as published


def _overlap(box: tuple[float, float], other: tuple[float, float]) -> float:
    """Intersection over union of two boxes that share a corner (published: union + 1e-5)."""
    shared = min(box[0], other[0]) * min(box[1], other[1])
    return shared / (box[0] * box[1] + other[0] * other[1] - shared + 1e-5)


Resize = Callable[[Pixels, int, int], Tensor]
"""Pixels, height and width to [3, height, width] uint8."""


def resize_with_torch(pixels: Pixels, height: int, width: int) -> Tensor:
    """Resize by antialiased bicubic: within 2 levels of Pillow's, several times as fast."""
    picture = torch.from_numpy(pixels).permute(2, 0, 1)[None]  # [1, 3, h, w]
    resized = functional.interpolate(
        picture, size=(height, width), mode="bicubic", antialias=True, align_corners=False
    )
    return resized[0].contiguous()


def resize_with_pillow(pixels: Pixels, height: int, width: int) -> Tensor:
    """Resize by Pillow's bicubic, as the published processor does."""
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()


def make_tiles(
    pixels: Pixels, image_size: int, grid: Grid | None, resize: Resize = resize_with_torch
) -> Tensor:
    """Resize a picture, without keeping its aspect ratio, to one tile or to a grid of tiles.

    Args:
        pixels: [height, width, 3] uint8.
        image_size: side of a tile, s.
        grid: None for a single tile.
        resize: by which resampling.

    Returns:
        [m, 3, s, s] uint8; the cells row by row, then the global view.
    """
    whole = resize(pixels, image_size, image_size)[None]
    if grid is None:
        return whole
    large = resize(pixels, grid.rows * image_size, grid.columns * image_size)
    cells = large.unflatten(2, (grid.columns, image_size)).unflatten(1, (grid.rows, image_size))
    in_order = cells.permute(1, 3, 0, 2, 4).flatten(0, 1)  # [rows * columns, 3, s, s]
    return torch.cat([in_order, whole])


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode with an obvious meaning to RGB; alpha is laid on white.

    Args:
        image: of any mode but those in MODES_WITHOUT_RANGE.
    """
    if image.mode.startswith("I;16"):
        # convert("RGB") would clip at 255 instead of scaling.
        high_byte = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return Image.fromarray(high_byte).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


MODES_WITHOUT_RANGE = ("I", "F")
"""32-bit and float pictures: what is white in them is anybody's guess."""
