# SPDX-License-Identifier: Apache-2.0
"""A resumed run keeps its global batch, on any number of ranks; another one is refused."""

from dataclasses import replace
from itertools import islice

import pytest

from owl.config.run import BatchConfig, ChangePolicy, PackConfig
from owl.data.open_run import chosen_for, step_size
from owl.data.samples import Cursor
from owl.errors import CheckpointError
from tests.unit.data.shard_factory import data_config, make_loader, write_chats

PACK = PackConfig(text_tokens=400, tiles=8, window=20)
PUBLISHED = BatchConfig(samples_per_step=20)  # 3 packs on one rank, 4 on two or four


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_chats(tmp_path_factory.mktemp("chats") / "shards", shards=2, samples=20)


def start_of(loader, batch, dp_size, start=None):
    """Steps of a run as owl.train.run begins them, and the packs of each."""
    size = step_size(batch, loader, dp_size=dp_size, start=start)
    return size, loader.steps(size, start, samples_per_step=chosen_for(batch))


def run_two_steps(config, batch, dp_size):
    loaders = [make_loader(config, PACK, dp_rank=r, dp_size=dp_size) for r in range(dp_size)]
    size, first = start_of(loaders[0], batch, dp_size)
    return size, list(islice(first, 2))[-1].cursor


def keys_of(config, batch, dp_size, start):
    """Sample keys of the next three global batches."""
    ranks = [
        islice(
            start_of(make_loader(config, PACK, dp_rank=r, dp_size=dp_size), batch, dp_size, start)[
                1
            ],
            3,
        )
        for r in range(dp_size)
    ]
    return [
        sorted(key for step in steps for m in step.microbatches for key in m.keys)
        for steps in zip(*ranks, strict=True)
    ]


def test_a_size_that_was_chosen_is_kept_on_other_ranks(tmp_path, folder):
    config = data_config(tmp_path, folder)
    four, cursor = run_two_steps(config, PUBLISHED, dp_size=4)
    alone = make_loader(config, PACK)
    assert step_size(PUBLISHED, alone, dp_size=1) == 3 != four  # rounding depends on the ranks
    assert step_size(PUBLISHED, alone, dp_size=1, start=cursor) == four == cursor.packs_per_step
    straight = keys_of(config, PUBLISHED, 4, cursor)
    assert keys_of(config, PUBLISHED, 1, cursor) == straight
    assert keys_of(config, PUBLISHED, 2, cursor) == straight


def test_another_number_of_packs_is_refused(tmp_path, folder):
    config = data_config(tmp_path, folder)
    _, cursor = run_two_steps(config, BatchConfig(global_batch_size=4), dp_size=1)
    with pytest.raises(
        CheckpointError,
        match=r"packs per step: the checkpoint has 4 \(batch\.global_batch_size\), this run 6",
    ):
        start_of(make_loader(config, PACK), BatchConfig(global_batch_size=6), 1, cursor)


def test_another_number_of_samples_is_refused_too(tmp_path, folder):
    config = data_config(tmp_path, folder)
    _, cursor = run_two_steps(config, PUBLISHED, dp_size=1)
    other = BatchConfig(samples_per_step=40)
    with pytest.raises(CheckpointError, match=r"for batch\.samples_per_step=20.*_per_step=40"):
        start_of(make_loader(config, PACK), other, 1, cursor)


def test_a_size_that_the_ranks_cannot_share_is_refused_and_chosen_anew_with_the_flag(
    tmp_path, folder, caplog
):
    config = data_config(tmp_path, folder)
    three, cursor = run_two_steps(config, PUBLISHED, dp_size=1)
    assert three == 3
    loader = make_loader(config, PACK, dp_size=2)
    with pytest.raises(CheckpointError, match=r"3 do not divide among this run's ranks, .* 2 at"):
        start_of(loader, PUBLISHED, 2, cursor)
    config.on_change = ChangePolicy.next_window
    size, steps = start_of(make_loader(config, PACK, dp_size=2), PUBLISHED, 2, cursor)
    after = next(steps).cursor
    assert (size, after.packs_per_step, after.packs_consumed) == (4, 4, cursor.packs_consumed + 4)
    assert after.epoch == cursor.epoch + 1  # window 1 was the last
    assert "packs per step: the checkpoint has 3" in caplog.text


def test_new_data_give_another_choice(tmp_path, folder):
    config = data_config(tmp_path, folder, on_change=ChangePolicy.next_window)
    _, cursor = run_two_steps(config, PUBLISHED, dp_size=1)
    wide = make_loader(config, replace(PACK, text_tokens=1600, tiles=32))
    assert step_size(PUBLISHED, wide, dp_size=1, start=cursor) == 1


def test_a_cursor_that_does_not_know_its_size_is_taken_as_it_is(tmp_path, folder):
    loader = make_loader(data_config(tmp_path, folder), PACK)
    older = Cursor(fingerprint=loader.fingerprint)
    size, steps = start_of(loader, PUBLISHED, 1, older)
    assert next(steps).cursor.packs_per_step == size == 3
