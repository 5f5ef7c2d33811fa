# SPDX-License-Identifier: Apache-2.0
from collections import Counter
from itertools import islice

import pytest

from owl.config.run import PackConfig, SourceConfig
from owl.data.plan import plan as plan_module
from owl.data.plan.balance import share_packs
from owl.data.plan.plan import PlannedSample, SourceOrder, predicted_cost
from owl.data.samples import Cursor
from owl.data.shards.dataset import Dataset
from owl.data.shards.index import write_dataset
from owl.data.shown import CutChoice
from owl.errors import ConfigError, DataError
from tests.unit.data.shard_factory import data_config, make_loader, write_chats


@pytest.fixture
def folder(tmp_path):
    return write_chats(tmp_path / "a", shards=3, samples=9)


def plan_of(tmp_path, *folders, pack=None, **settings):
    return make_loader(data_config(tmp_path, *folders, **settings), pack).plan


def epoch_samples(plan, epoch):
    windows = (plan.window(epoch, number) for number in range(plan.windows_per_epoch))
    return [sample for window in windows for pack in window.packs for sample in pack]


def pack(tokens, tiles=0):
    return (PlannedSample(0, 0, tokens, CutChoice.none, tokens, tiles),)


def test_an_epoch_has_every_sample_once(tmp_path, folder):
    plan = plan_of(tmp_path, folder)
    for epoch in (0, 1, 5):
        samples = epoch_samples(plan, epoch)
        assert sorted(sample.index for sample in samples) == list(range(27))
        assert {sample.epoch for sample in samples} == {epoch}


def test_epochs_and_seeds_have_orders_of_their_own(tmp_path, folder):
    def order(epoch, seed):
        return [
            sample.index for sample in epoch_samples(plan_of(tmp_path, folder, seed=seed), epoch)
        ]

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(epoch, seed)) for epoch in (0, 1) for seed in (1, 2)}) == 4


def test_groups_of_shards_are_shuffled_one_after_the_other(folder, monkeypatch):
    monkeypatch.setattr(plan_module, "GROUP_SAMPLES", 18)
    order = SourceOrder(Dataset.open(folder), 1, "a")
    indices = [index for _, index in order.take(0, 27)]
    assert sorted(indices) == list(range(27))
    first_shards = {index // 9 for index in indices[:18]}
    assert len(first_shards) == 2
    assert [index for _, index in order.take(10, 30)] == [i for _, i in order.take(0, 40)][10:]


def test_packs_keep_both_budgets(tmp_path, folder):
    plan = plan_of(tmp_path, folder, pack=PackConfig(text_tokens=150, tiles=3, window=10))
    for number in range(plan.windows_per_epoch):
        for planned in plan.window(0, number).packs:
            assert sum(sample.tokens for sample in planned) <= 150
            assert sum(sample.tiles for sample in planned) <= 3


def test_with_packing_off_a_pack_is_a_sample(tmp_path, folder):
    plan = plan_of(tmp_path, folder, pack=PackConfig(enabled=False, text_tokens=200, window=10))
    assert plan.mean_samples_per_pack() == 1.0
    assert {len(pack) for pack, _, _ in islice(plan.stream(Cursor()), 27)} == {1}


def test_too_long_and_too_many_tiles_are_dropped_and_counted(tmp_path, folder):
    pack = PackConfig(text_tokens=58, tiles=1, window=30)
    (window,) = (plan_of(tmp_path, folder, pack=pack).window(0, n) for n in range(1))
    assert window.dropped.keys() == {"E401", "E402"}
    kept = sum(map(len, window.packs))
    assert kept + sum(window.dropped.values()) == 27
    step = next(plan_of(tmp_path, folder, pack=pack).steps(2, Cursor()))
    assert step.dropped == window.dropped


def test_what_a_window_dropped_is_not_counted_again_on_resume(tmp_path, folder):
    plan = plan_of(tmp_path, folder, pack=PackConfig(text_tokens=58, tiles=1, window=30))
    first, second = islice(plan.steps(2, Cursor()), 2)
    assert first.dropped
    assert second.dropped == {}
    assert next(plan.steps(2, first.cursor)) == second


def test_budgets_that_fit_nothing_are_an_error_and_not_a_hang(tmp_path, folder):
    plan = plan_of(tmp_path, folder, pack=PackConfig(text_tokens=3, window=10))
    with pytest.raises(DataError, match=r"E401.*pack\.text_tokens=3"):
        next(plan.steps(1, Cursor()))


def test_a_batch_that_an_epoch_cannot_fill_continues_with_the_next(tmp_path, folder):
    plan = plan_of(tmp_path, folder)
    stream = [pack for pack, _, _ in islice(plan.stream(Cursor()), 35)]
    steps = list(islice(plan.steps(7, Cursor()), 5))
    assert [pack for step in steps for pack in step.packs] == stream
    assert steps[-1].cursor.packs_consumed == 35
    assert steps[-1].cursor.samples_consumed == sum(map(len, stream))


def test_every_cursor_resumes_the_stream_where_it_stood(tmp_path, folder):
    plan = plan_of(tmp_path, folder)
    straight = list(islice(plan.stream(Cursor()), 40))
    for place, (_, cursor, _) in enumerate(straight[:30]):
        assert next(plan_of(tmp_path, folder).stream(cursor))[0] == straight[place + 1][0]


def test_sources_are_blended_by_weight(tmp_path, folder):
    other = write_chats(tmp_path / "b", shards=1, samples=9, name="t")
    config = data_config(tmp_path, folder, other)
    config.sources["b"] = SourceConfig(path=str(other), weight=3.0)
    plan = make_loader(config, PackConfig(text_tokens=200, tiles=4, window=12)).plan
    for epoch in (0, 1):
        assert Counter(sample.source for sample in epoch_samples(plan, epoch)) == {0: 9, 1: 27}
    # The small source is passed three times an epoch, the large one once in three.
    twice = epoch_samples(plan, 0) + epoch_samples(plan, 1) + epoch_samples(plan, 2)
    assert Counter((s.source, s.index) for s in twice if s.source == 0).most_common(1)[0][1] == 1
    assert set(Counter(s.index for s in twice if s.source == 1).values()) == {9}


def test_ranks_get_equally_many_packs_and_about_equal_work():
    packs = [pack(tokens) for tokens in (15, 48, 20, 50, 17, 46, 18, 45)]
    shares = share_packs(packs, 2)
    assert [len(share) for share in shares] == [4, 4]
    loads = [sum(map(predicted_cost, share)) for share in shares]
    assert abs(loads[0] - loads[1]) <= 5
    assert [predicted_cost(planned) for planned in shares[0]] == sorted(
        (predicted_cost(planned) for planned in shares[0]), reverse=True
    )


def test_a_rank_with_one_huge_pack_still_gets_its_number_of_packs():
    shares = share_packs([pack(tokens) for tokens in (1, 2, 1000, 3)], 2)
    assert [[predicted_cost(planned) for planned in share] for share in shares] == [
        [1000, 1],
        [3, 2],
    ]


@pytest.mark.parametrize("dp_size", [1, 2, 4, 8])
def test_the_global_batch_is_the_same_however_many_ranks_share_it(dp_size):
    packs = [pack(tokens, tokens % 3) for tokens in range(1, 17)]
    shares = share_packs(packs, dp_size)
    assert {planned for share in shares for planned in share} == set(packs)
    assert {len(share) for share in shares} == {16 // dp_size}


def test_a_weight_that_gives_no_sample_is_named(tmp_path, folder):
    config = data_config(tmp_path, folder, write_chats(tmp_path / "b", name="t"))
    config.sources["b"].weight = 1e-6
    with pytest.raises(ConfigError, match=r"data\.sources\.b\.weight=1e-06 gives it no sample"):
        make_loader(config)


def test_a_source_without_samples_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    write_dataset(tmp_path / "a", [])
    with pytest.raises(ConfigError, match=r"data\.sources\.a\.path=.* holds no samples"):
        make_loader(data_config(tmp_path, tmp_path / "a"))
