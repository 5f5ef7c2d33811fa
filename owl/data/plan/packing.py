# SPDX-License-Identifier: Apache-2.0
"""Samples to packs under two budgets: text tokens and image tiles.

Sorting by size, as one-budget packers do, puts text-heavy samples with text-heavy ones and leaves
the tile budget empty. The dot-product rule takes, again and again, the sample whose demand points
the same way as what is left of the pack, and so mixes the two kinds.
"""

import numpy as np
from numpy.typing import NDArray


def pack_window(
    tokens: NDArray[np.int64], tiles: NDArray[np.int64], *, max_tokens: int, max_tiles: int
) -> list[list[int]]:
    """Group the samples of one window into packs; each sample goes into exactly one.

    Args:
        tokens: [n] text tokens of each sample, at most max_tokens.
        tiles: [n] tiles of each sample, at most max_tiles.
        max_tokens: text tokens a pack may hold.
        max_tiles: tiles a pack may hold.

    Returns:
        Sample numbers, pack by pack.
    """
    demand = np.stack([tokens / max(max_tokens, 1), tiles / max(max_tiles, 1)], axis=1)  # [n, 2]
    waiting = np.ones(len(tokens), bool)
    packs = []
    while waiting.any():
        pack = fill_pack(tokens, tiles, demand, waiting, max_tokens, max_tiles)
        packs.append(pack)
    return packs


def fill_pack(
    tokens: NDArray[np.int64],
    tiles: NDArray[np.int64],
    demand: NDArray[np.float64],
    waiting: NDArray[np.bool_],
    max_tokens: int,
    max_tiles: int,
) -> list[int]:
    """Take samples for one pack, clearing them in `waiting`, until none fits any more."""
    pack: list[int] = []
    tokens_left, tiles_left = max_tokens, max_tiles
    while True:
        fits = waiting & (tokens <= tokens_left) & (tiles <= tiles_left)
        if not fits.any():
            return pack
        left = (tokens_left / max(max_tokens, 1), tiles_left / max(max_tiles, 1))
        score = np.where(fits, demand[:, 0] * left[0] + demand[:, 1] * left[1], -1.0)
        best = int(score.argmax())  # the first of equals
        pack.append(best)
        waiting[best] = False
        tokens_left -= int(tokens[best])
        tiles_left -= int(tiles[best])


def fill(packs: list[list[int]], amounts: NDArray[np.int64], budget: int) -> float:
    """Share of a budget that packs use."""
    return float(amounts.sum()) / (len(packs) * budget) if packs and budget else 0.0
