# SPDX-License-Identifier: Apache-2.0
"""The same global batches on any number of ranks and workers, from any step on."""

import hashlib
import random
from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest

from owl.config.run import ChangePolicy, CutPolicy, LiteralPolicy, OversizePolicy, PackConfig
from owl.data.plan.balance import share_packs
from owl.data.plan.plan import QUARANTINED, PlannedSample, imbalance
from owl.data.problems import data_problems
from owl.data.shown import CutChoice
from owl.errors import CheckpointError, ConfigError
from owl.families.owl3.work import tile_cost
from tests.tiny_run import EVERYTHING, tiny_model
from tests.unit.data.shard_factory import data_config, make_loader, write_chats

PACK = PackConfig(text_tokens=600, tiles=12, window=11)
BATCH = 4
STEPS = 12


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("blend")
    sizes = {"a": 9, "b": 6, "c": 4}
    return [write_chats(home / n, samples=size, name=n) for n, size in sizes.items()]


def blend(tmp_path, folders, **settings):
    """Three sources with weights of their own, one cut at random, one shortened."""
    config = data_config(tmp_path, *folders, **settings)
    config.sources["a"].weight, config.sources["b"].weight = 3.0, 0.7
    config.sources["b"].cut = CutPolicy.published
    config.sources["c"].oversize = OversizePolicy.truncate
    return config


def content(microbatch):
    """A micro-batch, comparable: keys, tokens, and a hash of each tile."""
    tiles = [hashlib.sha256(tile.numpy().tobytes()).hexdigest() for tile in microbatch.pixel_values]
    return microbatch.keys, tuple(microbatch.tokens.tolist()), tuple(tiles)


def global_batches(config, count, *, dp_size, start=None):
    """Contents of each step over all ranks, and the cursor after it; ranks take turns here."""
    loaders = [make_loader(config, PACK, dp_rank=r, dp_size=dp_size) for r in range(dp_size)]
    ranks = [islice(loader.steps(BATCH, start), count) for loader in loaders]
    for steps in zip(*ranks, strict=True):
        assert len({step.cursor.packs_consumed for step in steps}) == 1
        yield Counter(content(m) for step in steps for m in step.microbatches), steps[0].cursor


@pytest.fixture(scope="module")
def straight(tmp_path_factory, folders):
    """Twelve steps by four ranks, over the end of an epoch."""
    config = blend(tmp_path_factory.mktemp("straight"), folders)
    steps = list(global_batches(config, STEPS, dp_size=4))
    assert steps[-1][1].epoch >= 1
    return steps


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("dp_size", [1, 2])
def test_other_ranks_and_workers_continue_with_the_same_global_batches(
    tmp_path, folders, straight, dp_size, workers
):
    config = blend(tmp_path, folders, num_workers=workers)
    for stop in random.Random(workers).sample(range(1, STEPS - 1), 3):
        resumed = global_batches(
            config, min(3, STEPS - stop), dp_size=dp_size, start=straight[stop - 1][1]
        )
        assert list(resumed) == straight[stop : stop + 3]


def test_a_rank_that_reads_no_pixels_holds_the_same_rows(tmp_path, folders):
    config = blend(tmp_path, folders)
    reading, blind = (make_loader(config, PACK, read_pixels=choice) for choice in (True, False))
    for one, other in zip(
        islice(reading.steps(BATCH), 4), islice(blind.steps(BATCH), 4), strict=True
    ):
        assert replace(one.report, wait_seconds=0) == replace(other.report, wait_seconds=0)
        for full, rows in zip(one.microbatches, other.microbatches, strict=True):
            rows.check()
            assert rows.pixel_values.shape == (0, *full.pixel_values.shape[1:])
            assert len(full.pixel_values) == full.num_tiles
            for name in ("tokens", "labels", "loss_weights", "flat_media_offset", "cu_media"):
                assert getattr(rows, name).equal(getattr(full, name))
            assert (rows.keys, rows.media_offset) == (full.keys, full.media_offset)


def test_sources_blend_by_passes_too(tmp_path, folders):
    config = data_config(tmp_path, *folders)
    for name, epochs in zip("abc", (1, 2.5, 0.5), strict=True):
        config.sources[name].epochs = epochs
    plan = make_loader(config, PACK).plan
    assert plan.samples_per_epoch == 18 + 30 + 4
    planned = [s for w in range(plan.windows_per_epoch) for p in plan.window(0, w).packs for s in p]
    assert Counter(sample.source for sample in planned) == {0: 18, 1: 30, 2: 4}
    per_sample = Counter(sample.index for sample in planned if sample.source == 1)
    assert set(per_sample.values()) == {2, 3}
    # The half that was not used comes in the next epoch of the blend.
    later = [s for w in range(plan.windows_per_epoch) for p in plan.window(1, w).packs for s in p]
    assert len({s.index for s in planned + later if s.source == 2}) == 8


def test_passes_and_weights_do_not_mix(tmp_path, folders):
    config = data_config(tmp_path, *folders)
    config.sources["b"].epochs = 2.0
    (problem,) = data_problems(config)
    assert "data.sources.a.epochs is not set" in problem


def test_a_change_is_accepted_at_the_next_window_when_asked_for(tmp_path, folders, caplog):
    config = blend(tmp_path, folders)
    (*_, last) = islice(make_loader(config, PACK).steps(BATCH), 3)
    assert last.cursor.pack > 0
    config.sources["c"].weight = 2.0
    with pytest.raises(CheckpointError, match=r"data\.sources\.c: .* weight=1\.0.*weight=2\.0"):
        make_loader(config, PACK).steps(BATCH, last.cursor)
    config.on_change = ChangePolicy.next_window
    loader = make_loader(config, PACK)
    step = next(loader.steps(BATCH, last.cursor))
    window = loader.plan.window(last.cursor.epoch, last.cursor.window + 1)
    expected = {key for pack in window.packs[:BATCH] for key in names(loader, pack)}
    assert {key for m in step.microbatches for key in m.keys} >= expected
    assert step.cursor.packs_consumed == last.cursor.packs_consumed + BATCH
    assert "weight=2.0" in caplog.text


def names(loader, pack):
    return [loader.plan.sources[s.source].dataset.key(s.index) for s in pack]


def test_a_plan_that_became_shorter_begins_its_next_epoch(tmp_path, folders):
    config = blend(tmp_path, folders)
    (*_, last) = islice(make_loader(config, PACK).steps(2), 4)
    wide = PackConfig(text_tokens=600, tiles=12, window=1000)
    loader = make_loader(blend(tmp_path, folders, on_change=ChangePolicy.next_window), wide)
    step = next(loader.steps(1, last.cursor))
    expected = (last.cursor.epoch + 1, 0, 1)
    assert (step.cursor.epoch, step.cursor.window, step.cursor.pack) == expected


def test_another_version_of_a_library_is_a_warning(tmp_path, folders, caplog):
    config = blend(tmp_path, folders)
    loader = make_loader(config, PACK)
    step = next(loader.steps(BATCH))
    older = dict(step.cursor.fingerprint) | {"library.pillow": "10.0"}
    next(loader.steps(BATCH, replace(step.cursor, fingerprint=older)))
    assert "library.pillow: the checkpoint has '10.0'" in caplog.text


def test_the_fingerprint_names_tokenizer_and_template_apart(tmp_path, folders):
    fingerprint = make_loader(blend(tmp_path, folders), PACK).fingerprint
    assert {
        "data.tokenizer",
        "model.template",
        "pack.tiles",
        "data.sources.b",
    } <= fingerprint.keys()
    escaping = blend(tmp_path, folders, special_literals=LiteralPolicy.escape)
    assert make_loader(escaping, PACK).fingerprint != fingerprint


def quarantined(tmp_path, folders, *lines):
    file = tmp_path / "quarantine.txt"
    file.write_text("# bad ones\n" + "\n".join(lines) + "\n")
    return blend(tmp_path, folders, quarantine=str(file))


def test_quarantined_samples_and_shards_are_left_out(tmp_path, folders):
    loader = make_loader(
        quarantined(tmp_path, folders, "a-000.tar/a0003  # torn", "b-001.tar"), PACK
    )
    plan = loader.plan
    windows = [plan.window(0, number) for number in range(plan.windows_per_epoch)]
    seen = {key for window in windows for pack in window.packs for key in names(loader, pack)}
    assert "a0003" not in seen
    assert not any(key in seen for key in ("b0006", "b0011"))
    assert sum(window.dropped.get(QUARANTINED, 0) for window in windows) >= 1
    plain = make_loader(blend(tmp_path, folders), PACK)
    assert loader.fingerprint["data.quarantine"] != plain.fingerprint["data.quarantine"] == ""


def test_a_key_that_a_shard_does_not_have_is_a_mistake(tmp_path, folders):
    with pytest.raises(ConfigError, match=r"a-000\.tar/nobody, but the shard has no such sample"):
        make_loader(quarantined(tmp_path, folders, "a-000.tar/nobody"), PACK)


def test_a_shard_that_no_source_lists_is_a_mistake_too(tmp_path, folders):
    lines = ("a-00.tar", "b-001.tar", "nowhere.tar/a0001")
    with pytest.raises(ConfigError, match=r"shard a-00\.tar, which no") as error:
        make_loader(quarantined(tmp_path, folders, *lines), PACK)
    assert len(error.value.problems) == 2  # not b-001.tar
    assert "nowhere.tar" in error.value.problems[1]


def test_a_missing_quarantine_file_is_a_problem(tmp_path, folders):
    (problem,) = data_problems(blend(tmp_path, folders, quarantine=str(tmp_path / "gone")))
    assert problem.startswith(f"data.quarantine={tmp_path / 'gone'} cannot be read")


def test_the_report_says_share_balance_and_work(tmp_path, folders):
    config = blend(tmp_path, folders)
    ranks = [
        next(make_loader(config, PACK, dp_rank=r, dp_size=2, tile_cost=5.0).steps(BATCH))
        for r in range(2)
    ]
    reports = [step.report for step in ranks]
    work = [report.text_tokens + 5.0 * report.tiles for report in reports]
    assert [report.work for report in reports] == work
    assert {report.imbalance for report in reports} == {imbalance(work)}
    keys = [key for step in ranks for m in step.microbatches for key in m.keys]
    assert reports[0].source_samples == Counter(key[0] for key in keys)


def test_packs_are_dealt_by_the_cost_of_tiles():
    packs = [
        (PlannedSample(0, 0, number, CutChoice.none, tokens=100 * number, tiles=8 - number),)
        for number in range(8)
    ]
    for cost, weight in ((0.0, lambda s: s.tokens), (1e6, lambda s: s.tiles)):
        shares = share_packs(packs, 2, cost)
        loads = [float(sum(weight(s) for pack in share for s in pack)) for share in shares]
        assert imbalance(loads) == 0.0


def test_the_set_cost_of_a_tile_wins_over_the_models(tmp_path, folders):
    config = blend(tmp_path, folders)
    assert make_loader(config, PACK, tile_cost=7.0).tile_cost == 7.0
    assert make_loader(config, replace(PACK, tile_cost=3.0), tile_cost=7.0).tile_cost == 3.0


def test_a_tile_costs_more_beside_a_smaller_or_frozen_decoder():
    frozen = replace(EVERYTHING, vision_tower=False)
    model = tiny_model()
    assert tile_cost(model, EVERYTHING) > tile_cost(model, frozen) > 0
    assert tile_cost(replace(model, num_layers=40), frozen) < tile_cost(model, frozen)
