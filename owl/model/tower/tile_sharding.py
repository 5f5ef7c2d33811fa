# SPDX-License-Identifier: Apache-2.0
"""Image parallelism: each rank of a tensor group encodes other tiles with a copy of the tower.

A tower of 400 M weights is small beside a decoder; cutting its layers costs two all-reduces a layer
of 729 rows a tile. Sharing the tiles out by count costs one gather of the features.
"""

from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def tile_shares(tiles: int, ranks: int) -> list[slice]:
    """Cut a number of tiles into one run a rank, as even as can be; some may be empty."""
    edges = [tiles * rank // ranks for rank in range(ranks + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def gather_tiles(features: Tensor, tiles: int, group: dist.ProcessGroup) -> Tensor:
    """Collect every rank's tiles, in order, on all ranks.

    Args:
        features: [m_here, ..] of this rank's share.
        tiles: m, over the group.
        group: the tensor group.

    Returns:
        [m, ..]. The gradient of a rank's own tiles is its slice of the full gradient,
        which every rank holds.
    """
    return _GatherTiles.apply(features, tiles, group)


class _GatherTiles(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, tiles: int, group: dist.ProcessGroup) -> Tensor:
        shares = tile_shares(tiles, group.size())
        ctx.mine = shares[group.rank()]
        most = max(share.stop - share.start for share in shares)
        padded = F.pad(features, [0, 0] * (features.ndim - 1) + [0, most - len(features)])
        gathered = [torch.empty_like(padded) for _ in shares]
        dist.all_gather(gathered, padded.contiguous(), group=group)
        parts = zip(gathered, shares, strict=True)
        return torch.cat([part[: share.stop - share.start] for part, share in parts])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return gradient[ctx.mine], None, None
