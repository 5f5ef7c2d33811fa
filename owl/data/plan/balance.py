# SPDX-License-Identifier: Apache-2.0
"""Which rank computes which packs of a global batch: equally many each, and about equal work."""

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from owl.data.plan.plan import TILE_COST, Pack, predicted_cost

MAX_SWAPS = 256
"""Most swaps that even out the ranks' work of one global batch."""

SWAP_PARTNERS = 8
"""Idlest ranks that the busiest one tries to swap a pack with."""

WORTHWHILE = 1e-9
"""Share of a rank's work that a swap has to gain: rounding alone would keep them going."""


def share_packs(
    packs: Sequence[Pack], dp_size: int, tile_cost: float = TILE_COST
) -> list[list[Pack]]:
    """Deal one global batch to ranks: equally many packs each, and about equal work.

    The heaviest pack goes first, always to the rank with the least work that still has room; then
    packs are swapped while that shortens the busiest rank's work. Each rank's packs are sorted, so
    the ranks' k-th micro-batches weigh about the same too. Who gets which pack does not change the
    gradient: it is a sum over the global batch.

    Args:
        packs: of the global batch; dp_size divides their number.
        dp_size: data-parallel ranks.
        tile_cost: text tokens that one tile weighs.

    Returns:
        The packs of each rank, the heaviest first.
    """
    costs = np.array([predicted_cost(pack, tile_cost) for pack in packs])
    # Stable sorts: equal packs keep their order, on every rank and every machine.
    shares = _deal(costs[order := np.argsort(-costs, kind="stable")], dp_size)
    _even_out(shares, costs[order])
    return [[packs[order[place]] for place in np.sort(share)] for share in shares]


def _deal(costs: NDArray[np.float64], ranks: int) -> NDArray[np.int64]:
    """Place by place, heaviest first, to the idlest rank with room: [ranks, packs of each]."""
    room = len(costs) // ranks
    shares = np.zeros((ranks, room), np.int64)
    dealt = [0] * ranks
    loads = [(0.0, rank) for rank in range(ranks)]
    for place, cost in enumerate(costs.tolist()):
        load, rank = heapq.heappop(loads)
        shares[rank, dealt[rank]] = place
        dealt[rank] += 1
        if dealt[rank] < room:
            heapq.heappush(loads, (load + cost, rank))
    return shares


def _even_out(shares: NDArray[np.int64], costs: NDArray[np.float64]) -> None:
    """Swap packs between the busiest rank and one of the idlest while that shortens the step.

    Dealing gives each rank equally many packs, so a few light ones can leave it uneven.

    Args:
        shares: [ranks, packs of each] numbers of packs; changed in place.
        costs: [packs], descending.
    """
    loads = costs[shares].sum(axis=1)
    for _ in range(MAX_SWAPS):
        busy = int(loads.argmax())
        idlest = np.argsort(loads, kind="stable")[:SWAP_PARTNERS].tolist()
        swaps = [(*_best_swap(shares, loads, costs, busy, idle), idle) for idle in idlest]
        gain, i, j, idle = max(swaps, key=lambda swap: swap[0])
        if gain <= WORTHWHILE * loads[busy]:
            return
        shares[busy, i], shares[idle, j] = shares[idle, j], shares[busy, i]
        for rank in (busy, idle):
            shares[rank].sort()
            loads[rank] = costs[shares[rank]].sum()


def _best_swap(
    shares: NDArray[np.int64],
    loads: NDArray[np.float64],
    costs: NDArray[np.float64],
    busy: int,
    idle: int,
) -> tuple[float, int, int]:
    """Find which of two ranks' packs to swap: how much work leaves the busier one, and both places.

    Moving half of the gap makes the two alike, so each heavy pack's best partner is the one nearest
    to its cost less that half: next to where that would be inserted among the sorted light ones.
    """
    half = (loads[busy] - loads[idle]) / 2
    heavy, light = costs[shares[busy]], costs[shares[idle]][::-1]  # light ascending
    above = np.searchsorted(light, heavy - half).clip(1, max(len(light) - 1, 1))
    neighbours = np.stack([above - 1, above.clip(max=len(light) - 1)])  # [2, heavy]
    gains = half - np.abs(heavy - light[neighbours] - half)
    side, i = divmod(int(gains.argmax()), len(heavy))
    return float(gains[side, i]), i, len(light) - 1 - int(neighbours[side, i])
