# SPDX-License-Identifier: Apache-2.0
import io
import logging
import os
import pickle
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from owl.config.run import (
    CutPolicy,
    DataConfig,
    ImageLibrary,
    LiteralPolicy,
    PackConfig,
    SourceConfig,
)
from owl.curate.prepare import prepare_folder
from owl.data.encode.encoder import EMPTY_KEY
from owl.data.microbatch import SPAN, Fault, MicrobatchReader, SkipBudget
from owl.data.problems import data_problems
from owl.data.samples import Cursor
from owl.data.shards import retry
from owl.data.shards.dataset import ShardWriter
from owl.errors import CheckpointError, ConfigError, DataError
from tests.unit.data.shard_factory import (
    IMAGE_SIZE,
    chat,
    data_config,
    files_of,
    make_loader,
    picture,
    write_chats,
    write_shard,
)


@pytest.fixture
def folder(tmp_path):
    return write_chats(tmp_path / "a", shards=3, samples=9)


def take(loader, count, size=4, start=None):
    return list(islice(loader.steps(size, start), count))


def digest(steps):
    """Everything a step holds, comparable."""
    return [
        (
            step.cursor,
            [
                (m.keys, m.tokens.tolist(), m.labels.tolist(), m.pixel_values.numpy().tobytes())
                for m in step.microbatches
            ],
        )
        for step in steps
    ]


def key_set(steps_of_ranks):
    """Sorted sample names of each global batch, over all ranks."""
    return [
        sorted(key for step in steps for m in step.microbatches for key in m.keys)
        for steps in zip(*steps_of_ranks, strict=True)
    ]


def spoil(folder, *keys):
    """Write a shard whose named samples have pictures that end in the middle, and prepare it."""
    triples = []
    for number in range(8):
        document = chat(pictures=1)
        files = files_of(document, width=200, height=200)
        key = f"p{number}"
        if key in keys:
            files = {name: data[: len(data) // 2] for name, data in files.items()}
        triples.append((key, document, files))
    write_shard(folder / "p.tar", triples)
    assert prepare_folder(folder) == []  # the headers are fine
    return folder


def test_workers_do_not_change_the_batches(tmp_path, folder):
    alone = take(make_loader(data_config(tmp_path, folder)), 6)
    for workers in (1, 2):
        config = data_config(tmp_path, folder, num_workers=workers)
        assert digest(take(make_loader(config), 6)) == digest(alone)


def test_ranks_share_the_same_global_batches(tmp_path, folder):
    config = data_config(tmp_path, folder)
    alone = key_set([take(make_loader(config), 5)])
    for size in (2, 4):
        ranks = [take(make_loader(config, dp_rank=rank, dp_size=size), 5) for rank in range(size)]
        assert key_set(ranks) == alone
        assert len({step.cursor.packs_consumed for steps in ranks for step in steps[:1]}) == 1


def test_any_cursor_resumes_as_if_nothing_had_happened(tmp_path, folder):
    config = data_config(tmp_path, folder)
    straight = take(make_loader(config), 10)
    for stop in range(1, 9, 2):
        resumed = take(make_loader(config), 10 - stop, start=straight[stop - 1].cursor)
        assert digest(resumed) == digest(straight[stop:])


def test_a_blend_with_random_cuts_resumes_exactly_too(tmp_path, folder):
    other = write_chats(tmp_path / "b", shards=1, samples=5, name="t")
    config = data_config(tmp_path, folder, other, cut=CutPolicy.published)
    config.sources["b"].weight = 0.3
    pack = PackConfig(text_tokens=600, tiles=12, window=7)
    straight = take(make_loader(config, pack), 12, size=2)
    for stop in range(1, 12, 3):
        resumed = take(
            make_loader(config, pack), 12 - stop, size=2, start=straight[stop - 1].cursor
        )
        assert digest(resumed) == digest(straight[stop:])
    assert straight[-1].cursor.epoch > 0


def test_resuming_on_other_ranks_gives_the_same_global_batches(tmp_path, folder):
    config = data_config(tmp_path, folder)
    straight = take(make_loader(config), 8)
    ranks = [
        take(make_loader(config, dp_rank=rank, dp_size=2), 5, start=straight[2].cursor)
        for rank in range(2)
    ]
    assert key_set(ranks) == key_set([straight[3:]])


def test_the_loader_leaves_the_global_random_state_alone(tmp_path, folder):
    before = torch.get_rng_state()
    take(make_loader(data_config(tmp_path, folder)), 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_micro_batch_lays_several_packs_end_to_end(tmp_path, folder):
    config = data_config(tmp_path, folder)
    ones = take(make_loader(config), 3)
    twos = take(make_loader(config, micro_batch_size=2), 3)
    for one, two in zip(ones, twos, strict=True):
        assert (len(one.microbatches), len(two.microbatches)) == (4, 2)
        tokens = torch.cat([m.tokens for m in one.microbatches])
        assert torch.equal(torch.cat([m.tokens for m in two.microbatches]), tokens)


def test_the_report_counts_what_the_step_holds(tmp_path, folder):
    (step,) = take(make_loader(data_config(tmp_path, folder)), 1)
    report, batches = step.report, step.microbatches
    assert report.packs == 4
    assert report.samples == sum(m.num_samples for m in batches) == step.cursor.samples_consumed
    assert report.text_tokens == sum(len(m.tokens) for m in batches)
    assert report.tiles == sum(len(m.pixel_values) for m in batches)
    assert report.skipped == {}


def test_every_rank_reports_what_the_plan_dropped(tmp_path, folder):
    config = data_config(tmp_path, folder)
    pack = PackConfig(text_tokens=58, tiles=1, window=30)
    ranks = [take(make_loader(config, pack, dp_rank=rank, dp_size=2), 1) for rank in range(2)]
    dropped = make_loader(config, pack).plan.window(0, 0).dropped
    assert [steps[0].report.skipped for steps in ranks] == [dropped, dropped]
    assert dropped


def test_cut_pictures_arrive_as_planned(tmp_path, folder):
    config = data_config(tmp_path, folder, cut=CutPolicy.published)
    loader = make_loader(config, PackConfig(text_tokens=600, tiles=12, window=20))
    for step in take(loader, 6):
        for batch in step.microbatches:
            assert batch.num_tokens <= 600
            assert batch.num_tiles <= 12


def test_a_source_may_cut_while_the_others_do_not(tmp_path, folder):
    config = data_config(tmp_path, folder)
    config.sources["a"].cut = CutPolicy.on
    loader = make_loader(config, PackConfig(text_tokens=600, tiles=12, window=20))
    assert max(len(m.media_offset[0]) for s in take(loader, 6) for m in s.microbatches) >= 4


def test_a_corrupt_picture_is_skipped_named_once_and_counted(tmp_path, caplog):
    one_each = PackConfig(enabled=False, text_tokens=200)
    loader = make_loader(data_config(tmp_path, spoil(tmp_path / "a", "p3")), one_each)
    with caplog.at_level(logging.WARNING, logger="owl"):
        steps = take(loader, 2, size=8)  # two epochs
    for step in steps:
        assert step.report.skipped == {"E308": 1}
        seen = {key for m in step.microbatches for key in m.keys}
        assert seen == {f"p{i}" for i in range(8) if i != 3} | {EMPTY_KEY}
    (message,) = [record.getMessage() for record in caplog.records]
    assert "E308: shard p.tar: sample 'p3'" in message


def test_skipping_does_not_move_the_stream(tmp_path):
    whole = take(make_loader(data_config(tmp_path, spoil(tmp_path / "a"))), 4, size=2)
    holed = take(make_loader(data_config(tmp_path, spoil(tmp_path / "b", "p3"))), 4, size=2)
    for one, other in zip(whole, holed, strict=True):
        unlike = {"fingerprint": {}, "skips": {}}
        assert replace(one.cursor, **unlike) == replace(other.cursor, **unlike)
        for full, left in zip(one.microbatches, other.microbatches, strict=True):
            assert [key for key in full.keys if key != "p3"] == list(left.keys)


def test_a_pack_without_any_usable_sample_keeps_its_place(tmp_path):
    config = data_config(tmp_path, spoil(tmp_path / "a", "p3"))
    steps = take(make_loader(config, PackConfig(enabled=False, text_tokens=200)), 1, size=8)
    (empty,) = [m for m in steps[0].microbatches if m.keys == (EMPTY_KEY,)]
    assert (empty.num_tokens, empty.num_tiles, empty.supervised_weight) == (1, 0, 0.0)
    assert steps[0].report.samples == 7


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_corrupt_samples_end_the_run(tmp_path, workers):
    folder = spoil(tmp_path / "a", "p1", "p3", "p5")
    config = data_config(tmp_path, folder, num_workers=workers, max_skipped_samples=2)
    with pytest.raises(DataError, match=r"E308.*3 of \d samples.*data\.max_skipped_fraction"):
        take(make_loader(config, PackConfig(enabled=False, text_tokens=200)), 2, size=8)


def test_too_many_invalid_samples_keep_the_run_from_starting(tmp_path):
    bad = chat(pictures=1, w=999)
    write_shard(tmp_path / "a/s.tar", [("x", bad, files_of(bad)), ("y", chat(), {})])
    prepare_folder(tmp_path / "a")
    config = data_config(tmp_path, tmp_path / "a", max_skipped_samples=0)
    with pytest.raises(DataError, match=r"E306.*1 of 2 samples.*data\.sources\.a"):
        make_loader(config)


def test_invalid_samples_are_not_read_but_counted(tmp_path):
    bad = chat(pictures=1, w=999)
    write_shard(tmp_path / "a/s.tar", [("x", bad, files_of(bad)), ("y", chat(), {})])
    prepare_folder(tmp_path / "a")
    (step,) = take(make_loader(data_config(tmp_path, tmp_path / "a")), 1, size=1)
    assert step.report.skipped == {"E306": 1}
    assert step.microbatches[0].keys == ("y",)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_overwritten_during_training_ends_the_run(tmp_path, folder, monkeypatch, workers):
    monkeypatch.setattr(retry, "RETRY_SECONDS", 0.0)
    loader = make_loader(data_config(tmp_path, folder, num_workers=workers))
    loader.plan.window(0, 0)  # lengths are known
    for path in folder.glob("*.tar"):
        content = bytearray(path.read_bytes())
        content[600] ^= 1
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"E110: shard s-00\d\.tar"):
        take(loader, 10)


def test_a_cursor_of_other_data_is_refused_with_the_difference(tmp_path, folder):
    (step,) = take(make_loader(data_config(tmp_path, folder)), 1)
    other = make_loader(data_config(tmp_path, folder, seed=5), PackConfig(text_tokens=300, tiles=4))
    with pytest.raises(CheckpointError) as caught:
        other.steps(4, step.cursor)
    message = str(caught.value)
    assert "data.seed: the checkpoint has '1234', this run '5'" in message
    assert "pack.text_tokens: the checkpoint has '200', this run '300'" in message
    assert "pack.tiles" not in message


def test_a_cursor_that_says_nothing_of_its_data_is_refused(tmp_path, folder):
    with pytest.raises(CheckpointError, match="has 'nothing'"):
        make_loader(data_config(tmp_path, folder)).steps(4, Cursor(window=1))


def test_moving_the_data_keeps_the_cursor_valid(tmp_path, folder):
    (step,) = take(make_loader(data_config(tmp_path, folder)), 1)
    os.rename(folder, tmp_path / "moved")
    take(make_loader(data_config(tmp_path, tmp_path / "moved")), 1, start=step.cursor)


def test_a_batch_must_divide_among_ranks_and_micro_batches(tmp_path, folder):
    loader = make_loader(data_config(tmp_path, folder), dp_size=2, micro_batch_size=3)
    with pytest.raises(ConfigError, match=r"batch\.global_batch_size=8 must be a multiple of 6"):
        loader.steps(8)


def test_counts_are_kept_beside_the_shards_and_used_again(tmp_path, folder):
    make_loader(data_config(tmp_path, folder)).plan.window(0, 0)
    kept = sorted(folder.glob("*.tok.*"))
    assert len(kept) == 3
    stamps = [path.stat().st_mtime_ns for path in kept]
    make_loader(data_config(tmp_path, folder)).plan.window(0, 0)
    assert [path.stat().st_mtime_ns for path in kept] == stamps


def test_counts_of_an_earlier_version_of_a_shard_are_made_again(tmp_path):
    def tokens_of(text):
        write_shard(tmp_path / "a/s.tar", [("k", chat(text), {})])
        prepare_folder(tmp_path / "a")
        plan = make_loader(data_config(tmp_path, tmp_path / "a")).plan
        return plan.window(0, 0).packs[0][0].tokens

    assert tokens_of("longer by ten") - tokens_of("lon") == 10


def test_all_missing_folders_are_named_at_once(tmp_path):
    (tmp_path / "bare").mkdir()
    data = DataConfig(
        sources={
            "gone": SourceConfig(path=str(tmp_path / "gone")),
            "bare": SourceConfig(path=str(tmp_path / "bare"), weight=0.0),
            "blank": SourceConfig(),
        },
        tokenizer=str(tmp_path / "bare"),
    )
    problems = list(data_problems(data))
    assert [problem.split("=")[0].split(" ")[0] for problem in problems] == [
        "data.sources.gone.path",
        "data.sources.bare.weight",
        "data.sources.bare.path",
        "data.sources.blank.path",
        "data.tokenizer",
    ]
    assert "owl data prepare" in problems[2]
    with pytest.raises(ConfigError, match="5 problems"):
        make_loader(data)


def test_nothing_named_is_two_problems_and_the_demo_none():
    assert len(list(data_problems(DataConfig()))) == 2
    demo = {"demo": SourceConfig(path="demo_data/shards/stage1")}
    made = DataConfig(demo=True, sources=demo, tokenizer="demo_data/tokenizer")
    assert list(data_problems(made)) == []


def test_text_with_markup_is_left_out_unless_it_is_escaped(tmp_path):
    literal = "<" + "|image|>"
    plain = chat("What is it?", pictures=1)
    marked = chat(f"What is {literal}?", pictures=1)
    (tmp_path / "a").mkdir()
    with ShardWriter(tmp_path / "a/s.tar", keep_literals=True) as writer:
        for key, document in (("plain", plain), ("marked", marked)):
            writer.write(key, document, files_of(document))
    (line,) = prepare_folder(tmp_path / "a")
    assert line.startswith("E206: shard s.tar: sample 'marked'")
    config = data_config(tmp_path, tmp_path / "a")
    (step,) = take(make_loader(config), 1, size=1)
    assert step.report.skipped == {"E206": 1}
    config.special_literals = LiteralPolicy.escape
    (step,) = take(make_loader(config), 1, size=1)
    (batch,) = step.microbatches
    assert (set(batch.keys), batch.num_tiles, step.report.skipped) == ({"plain", "marked"}, 2, {})


def test_a_blind_rank_leaves_out_what_the_reading_rank_could_not_decode(tmp_path):
    config = data_config(tmp_path, spoil(tmp_path / "a", "p3"))
    pack = PackConfig(enabled=False, text_tokens=200)
    heard = []

    def tell(skipped):
        heard.append(skipped)
        return skipped

    reading = take(make_loader(config, pack, share_skips=tell), 2, size=8)
    blind = make_loader(config, pack, read_pixels=False, share_skips=lambda mine: heard.pop(0))
    for one, other in zip(reading, take(blind, 2, size=8), strict=True):
        assert other.report.skipped == one.report.skipped == {"E308": 1}
        assert [m.keys for m in other.microbatches] == [m.keys for m in one.microbatches]


def test_a_failing_disk_ends_the_run_and_names_the_place(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(retry, "RETRY_SECONDS", 0.0)
    loader = make_loader(data_config(tmp_path, folder, num_workers=1))
    loader.plan.window(0, 0)

    def broken(*arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)  # the worker is forked after this
    with pytest.raises(OSError, match=r"shard s-00\d\.tar: \d+ bytes at \d+ of .*data\.quarantine"):
        take(loader, 1)


def test_repeated_reads_are_counted(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(retry, "RETRY_SECONDS", 0.0)
    loader = make_loader(data_config(tmp_path, folder))
    loader.plan.window(0, 0)
    pread, failures = os.pread, [OSError(5, "Input/output error")] * 2

    def flaky(*arguments):
        if failures:
            raise failures.pop()
        return pread(*arguments)

    monkeypatch.setattr(os, "pread", flaky)
    assert [step.report.read_retries for step in take(loader, 2)] == [2, 0]


def test_bytes_that_are_no_picture_are_never_run(tmp_path):
    # A pickle that would write a file if anything unpickled it.
    class Trap:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'sprung'}",))

    document = chat(pictures=1)
    write_shard(tmp_path / "a/s.tar", [("k", document, {"m0000.jpg": pickle.dumps(Trap())})])
    (line,) = prepare_folder(tmp_path / "a")
    assert line.startswith("E307")
    assert not (tmp_path / "sprung").exists()


def test_all_ranks_end_at_the_skips_of_any(tmp_path):
    config = data_config(tmp_path, write_chats(tmp_path / "a"), max_skipped_samples=2)
    others = [Fault("E308", "torn", "p.tar", f"p{number}", "a") for number in range(2)]
    loader = make_loader(config, gather_faults=lambda mine: [*mine, *others])
    steps = loader.steps(2)
    assert next(steps).cursor.skips["a"][3] == 2
    with pytest.raises(DataError, match=r"4 of \d+ samples"):
        next(steps)


def test_a_restart_does_not_forget_what_was_skipped(tmp_path):
    folder = spoil(tmp_path / "a", "p1", "p3", "p5")
    config = data_config(tmp_path, folder, max_skipped_samples=2)
    off = PackConfig(enabled=False, text_tokens=200)
    straight = make_loader(config, off).steps(1)
    good = []
    with pytest.raises(DataError, match="3 of") as straight_end:
        good.extend(straight)
    with pytest.raises(DataError, match="3 of") as resumed_end:
        list(make_loader(config, off).steps(1, good[-2].cursor))
    assert str(straight_end.value) == str(resumed_end.value)


def test_a_budget_forgets_what_lies_long_ago():
    budget, fault = SkipBudget(0.001, 2, {}), Fault("E308", "torn", "p.tar", "p1", "a")
    budget.count({"a": SPAN}, [fault, fault])
    assert budget.counted == {"a": [SPAN, 2, 0, 0]}
    budget.count({"a": SPAN}, [])
    budget.count({"a": 100}, [fault, fault])
    with pytest.raises(DataError, match=rf"12 of {SPAN + 200} samples"):
        budget.count({"a": 100}, [fault] * 10)


def test_each_source_has_a_skip_budget_of_its_own(tmp_path):
    good = write_chats(tmp_path / "b", shards=2, samples=20, name="g")
    config = data_config(
        tmp_path, spoil(tmp_path / "a", "p1", "p3", "p5"), good, max_skipped_samples=2
    )
    config.max_skipped_fraction = 0.1  # of both together 9 would be fewer
    with pytest.raises(DataError, match=r"9 of 24 samples of data\.sources\.a"):
        take(make_loader(config, PackConfig(enabled=False, text_tokens=200)), 2, size=48)


def test_every_tensor_of_a_micro_batch_can_be_pinned(tmp_path, folder, monkeypatch):
    loader = make_loader(data_config(tmp_path, folder))
    packs = loader.plan.window(0, 0).packs[:1]
    loaded = MicrobatchReader(loader.plan.sources)[packs]
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    again = loaded.pin_memory()
    tensors = [v for v in vars_of(loaded.batch) if isinstance(v, torch.Tensor)]
    assert {id(tensor) for tensor in pinned} == {id(tensor) for tensor in tensors}
    assert (again.batch.keys, again.read) == (loaded.batch.keys, loaded.read)


def vars_of(batch):
    return [getattr(batch, name) for name in batch.__dataclass_fields__]


def test_a_run_may_ask_for_the_tiles_of_pillow_and_says_so_in_its_cursor(tmp_path):
    document = chat(pictures=1)
    pixels = {"m0000.jpg": picture(300, 225)}
    write_shard(tmp_path / "a" / "s.tar", [("k", document, pixels)])
    prepare_folder(tmp_path / "a")
    loader = make_loader(data_config(tmp_path, tmp_path / "a", images=ImageLibrary.pillow))
    (batch,) = next(loader.steps(1)).microbatches
    image = Image.open(io.BytesIO(pixels["m0000.jpg"])).convert("RGB")
    resized = np.asarray(image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))
    assert batch.pixel_values[0].permute(1, 2, 0).numpy().tolist() == resized.tolist()
    assert loader.fingerprint["data.images"] == "pillow"
