# SPDX-License-Identifier: Apache-2.0
import time

import numpy as np
import pytest

from owl.data.plan.balance import _best_swap, share_packs
from owl.data.plan.plan import PlannedSample, imbalance, predicted_cost
from owl.data.shown import CutChoice


@pytest.mark.parametrize("seed", range(20))
def test_the_best_swap_is_that_of_a_search_over_all_pairs(seed):
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 12))
    costs = np.sort(random.integers(1, 40, 2 * count).astype(float))[::-1]
    shares = np.sort(random.permutation(2 * count).reshape(2, count), axis=1)
    loads = costs[shares].sum(axis=1)
    busy, idle = int(loads.argmax()), int(loads.argmin())
    gap = loads[busy] - loads[idle]
    moves = costs[shares[busy]][:, None] - costs[shares[idle]][None, :]
    gain, i, j = _best_swap(shares, loads, costs, busy, idle)
    assert gain == np.minimum(moves, gap - moves).max()
    assert gain == min(moves[i, j], gap - moves[i, j])


def test_a_thousand_mixed_packs_are_shared_in_no_time():
    random = np.random.default_rng(0)
    packs = [
        (PlannedSample(0, 0, i, CutChoice.none, int(tokens), int(tiles)),)
        for i, (tokens, tiles) in enumerate(random.integers((20, 0), (8000, 40), (1024, 2)))
    ]
    begin = time.process_time()
    shares = share_packs(packs, 8)
    assert time.process_time() - begin < 0.5  # 0.01; comparing all pairs took 4
    assert imbalance([sum(map(predicted_cost, share)) for share in shares]) < 1e-4
    assert sorted(pack[0].index for share in shares for pack in share) == list(range(1024))
    assert {len(share) for share in shares} == {128}
    for share in shares:
        costs = [predicted_cost(pack) for pack in share]
        assert costs == sorted(costs, reverse=True)
