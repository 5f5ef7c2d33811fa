# SPDX-License-Identifier: Apache-2.0
"""A vision tower's position table for pictures of another size."""

from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_positions(table: Tensor, *, class_tokens: int, side: int) -> Tensor:
    """Resize the grid of a position table, bicubically; class tokens keep their rows.

    How mPLUG-Owl2 came from 224 to 448 pixels is not published; this is the usual way.

    Args:
        table: [..., c + g * g, h], row by row.
        class_tokens: c, rows in front of the grid.
        side: patches along a side that the result is for.

    Returns:
        [..., c + side * side, h]; `table` itself if that is its size.
    """
    front, grid = table[..., :class_tokens, :], table[..., class_tokens:, :]
    old = isqrt(grid.shape[-2])
    if old == side:
        return table
    planes = grid.reshape(old, old, -1).permute(2, 0, 1)[None]  # [1, h, g, g]
    resized = F.interpolate(planes.float(), size=(side, side), mode="bicubic", align_corners=False)
    rows = resized[0].permute(1, 2, 0).flatten(0, 1).to(table.dtype)
    return torch.cat([front, rows.view(*table.shape[:-2], side * side, -1)], dim=-2)
