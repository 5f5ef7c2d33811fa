# SPDX-License-Identifier: Apache-2.0
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from owl.data.plan.mixture import epoch_quotas, taken_before
from owl.data.plan.packing import fill, pack_window

LENGTHS = st.lists(st.tuples(st.integers(1, 100), st.integers(0, 10)), max_size=60)


def arrays(lengths):
    both = np.array(lengths, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


@given(LENGTHS)
def test_every_sample_is_in_exactly_one_pack_and_both_budgets_hold(lengths):
    tokens, tiles = arrays(lengths)
    packs = pack_window(tokens, tiles, max_tokens=100, max_tiles=10)
    assert sorted(index for pack in packs for index in pack) == list(range(len(lengths)))
    for pack in packs:
        assert tokens[pack].sum() <= 100
        assert tiles[pack].sum() <= 10


@given(LENGTHS)
def test_packing_depends_on_the_lengths_alone(lengths):
    tokens, tiles = arrays(lengths)
    first = pack_window(tokens, tiles, max_tokens=100, max_tiles=10)
    assert first == pack_window(tokens.copy(), tiles.copy(), max_tokens=100, max_tiles=10)


@given(LENGTHS)
def test_no_two_packs_could_have_been_one(lengths):
    # A pack is closed only when nothing that waits fits, so the first sample of a later pack
    # never fits into an earlier one.
    tokens, tiles = arrays(lengths)
    packs = pack_window(tokens, tiles, max_tokens=100, max_tiles=10)
    for early, pack in enumerate(packs):
        for later in packs[early + 1 :]:
            for index in later:
                too_long = tokens[pack].sum() + tokens[index] > 100
                assert too_long or tiles[pack].sum() + tiles[index] > 10


def test_text_heavy_and_tile_heavy_samples_share_packs():
    tokens, tiles = arrays([(90, 0), (90, 0), (10, 10), (10, 10)])
    packs = pack_window(tokens, tiles, max_tokens=100, max_tiles=10)
    assert sorted(map(sorted, packs)) == [[0, 2], [1, 3]]


def test_a_mixed_window_fills_the_tighter_budget_to_ninety_percent():
    random = np.random.default_rng(0)
    tokens = random.integers(20, 800, 1024)
    tiles = np.where(random.random(1024) < 0.7, random.integers(1, 8, 1024), 0)
    packs = pack_window(tokens, tiles, max_tokens=4096, max_tiles=40)
    assert max(fill(packs, tokens, 4096), fill(packs, tiles, 40)) > 0.9


def test_a_budget_of_no_tiles_packs_text():
    tokens, tiles = arrays([(60, 0), (40, 0), (10, 0)])
    assert pack_window(tokens, tiles, max_tokens=100, max_tiles=0) == [[0, 1], [2]]


WEIGHTS = st.lists(st.floats(0.001, 1000), min_size=1, max_size=5)


@given(WEIGHTS, st.integers(0, 10_000))
def test_quotas_follow_the_weights_and_lose_no_sample(weights, samples):
    quotas = epoch_quotas(weights, samples)
    assert sum(quotas) == samples
    for quota, weight in zip(quotas, weights, strict=True):
        assert abs(quota - samples * weight / sum(weights)) < 1.001


@given(st.integers(1, 5000), st.integers(1, 300), st.data())
def test_windows_share_out_a_quota_exactly_and_evenly(samples, window, data):
    quota = data.draw(st.integers(0, samples))
    edges = [min(start, samples) for start in range(0, samples + window, window)]
    taken = [taken_before(quota, edge, samples) for edge in edges]
    assert taken[0] == 0
    assert taken[-1] == quota
    for edge, count in zip(edges, taken, strict=True):
        assert abs(count - quota * edge / samples) <= 0.5


def test_a_single_source_gives_its_samples_in_turn():
    assert [taken_before(10, position, 10) for position in range(11)] == list(range(11))
