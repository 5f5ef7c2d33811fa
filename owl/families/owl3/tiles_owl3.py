# SPDX-License-Identifier: Apache-2.0
"""Pictures to tiles: the published grids.

Training and owl.hf share this module, and a copy of it travels with exported folders: it imports
nothing of owl but other modules that travel.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from owl.portable.pixels_owl import Pixels, Resize, resize_with_torch


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
    overview = resize(pixels, image_size, image_size)[None]
    if grid is None:
        return overview
    large = resize(pixels, grid.rows * image_size, grid.columns * image_size)
    cells = large.unflatten(2, (grid.columns, image_size)).unflatten(1, (grid.rows, image_size))
    in_order = cells.permute(1, 3, 0, 2, 4).flatten(0, 1)  # [rows * columns, 3, s, s]
    return torch.cat([in_order, overview])
