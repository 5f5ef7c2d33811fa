# SPDX-License-Identifier: Apache-2.0
import pytest

from owl.config.run import PackConfig
from owl.curate.forecast import forecast, measure_fill, pack_again, step_imbalances, suggest
from owl.data.plan.balance import share_packs
from owl.data.plan.plan import PlannedSample, imbalance, predicted_cost
from owl.data.samples import Cursor
from tests.unit.data.shard_factory import data_config, make_loader, write_chats

PACK = PackConfig(text_tokens=200, tiles=4, window=8)


def samples(*lengths):
    return [PlannedSample(0, 0, i, 0, tokens, tiles) for i, (tokens, tiles) in enumerate(lengths)]


def look(tmp_path, pack=PACK, *, global_batch_size=2, dp_size=2, max_samples=1000):
    loader = make_loader(data_config(tmp_path, write_chats(tmp_path / "a")), pack)
    return loader, forecast(
        loader.plan,
        pack,
        global_batch_size=global_batch_size,
        dp_size=dp_size,
        tile_cost=10,
        max_samples=max_samples,
    )


def test_the_forecast_of_a_whole_epoch_is_what_the_loader_gives(tmp_path):
    loader, result = look(tmp_path, global_batch_size=1, dp_size=1)
    assert result.windows == result.windows_per_epoch == 3
    steps = loader.steps(1)
    batches = [next(steps) for _ in range(result.packs_per_epoch)]
    assert batches[-1].cursor.epoch == 0
    assert next(steps).cursor.epoch == 1
    assert sum(b.report.text_tokens for b in batches) == result.sources["a"].text_tokens
    assert sum(b.report.tiles for b in batches) == result.sources["a"].tiles
    fill = result.sources["a"].text_tokens / (200 * len(batches))
    assert result.fill.text_fill == pytest.approx(fill)


def test_what_is_not_looked_at_is_estimated(tmp_path):
    _, result = look(tmp_path, max_samples=8)
    assert (result.windows, result.windows_per_epoch) == (1, 3)
    assert result.packs_per_epoch == 3 * result.fill.packs


def test_oversize_samples_are_counted_by_code(tmp_path):
    _, result = look(tmp_path, PackConfig(text_tokens=55, tiles=1, window=8))
    assert result.shares.dropped.keys() == {"E401", "E402"}
    assert sum(result.shares.dropped.values()) + result.sources["a"].samples == 20
    assert result.longest[0] <= 55
    assert result.longest[1] == 1


def test_one_rank_is_never_out_of_balance_and_two_are_dealt_fairly():
    equal = [tuple(samples((100, 1))) for _ in range(4)]
    assert list(step_imbalances(equal, 4, 1, 10.0)) == [0.0]
    assert list(step_imbalances(equal, 2, 2, 10.0)) == [0.0, 0.0]
    uneven = [tuple(samples((cost, 0))) for cost in (300, 100)]
    assert list(step_imbalances(uneven, 2, 2, 10.0)) == [0.5]


def test_budgets_that_run_out_apart_get_a_better_pair_and_equal_ones_none():
    # Eight samples of 25 tokens and one tile: text 200 of 200, tiles 8 of 32.
    window = samples(*[(25, 1)] * 8)
    pack = PackConfig(text_tokens=200, tiles=32)
    now = measure_fill(pack_again(window, pack), pack)
    assert (now.text_fill, now.tile_fill, now.binding) == (1.0, 0.25, "pack.text_tokens")
    by_tiles, by_text = suggest([window], pack, now)
    assert (by_tiles.text_tokens, by_tiles.tiles) == (200, 8)
    assert (by_text.text_tokens, by_text.tiles) == (800, 32)
    assert by_tiles.text_fill == by_tiles.tile_fill == 1.0

    balanced = PackConfig(text_tokens=200, tiles=8)
    assert not list(
        suggest([window], balanced, measure_fill(pack_again(window, balanced), balanced))
    )


def test_a_suggested_budget_holds_the_largest_sample():
    window = samples((10, 6), *[(100, 0)] * 9)
    pack = PackConfig(text_tokens=500, tiles=60)
    (by_tiles, _) = suggest([window], pack, measure_fill(pack_again(window, pack), pack))
    assert by_tiles.tiles == 6


def test_text_without_pictures_gets_no_suggestion():
    window = samples((100, 0), (50, 0))
    pack = PackConfig(text_tokens=200, tiles=4)
    assert not list(suggest([window], pack, measure_fill(pack_again(window, pack), pack)))


def test_the_balance_of_a_step_that_is_longer_than_an_epoch_is_of_real_packs(tmp_path):
    loader, result = look(tmp_path, global_batch_size=64, dp_size=2)
    assert result.packs_per_epoch < 64
    (measured,) = result.imbalances
    shares = share_packs(next(loader.plan.steps(64, Cursor())).packs, 2, 10)
    loads = [sum(predicted_cost(pack, 10) for pack in share) for share in shares]
    assert measured == imbalance(loads)
