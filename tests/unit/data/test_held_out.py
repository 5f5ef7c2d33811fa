# SPDX-License-Identifier: Apache-2.0
"""The held-out share of a source: never trained on, and the same whatever else changes."""

from dataclasses import replace
from itertools import islice

import pytest

from owl.config.run import EvaluateConfig, PackConfig, SourceConfig
from owl.data.held_out import open_held_out
from owl.data.open_run import open_loader
from owl.data.problems import data_problems, held_out_problems
from owl.errors import ConfigError
from tests.tiny_run import tiny_run
from tests.unit.data.shard_factory import write_chats

SHARE = 0.3


def run_with_share(folder, share=SHARE, **changes):
    run = tiny_run(folder, evaluate=EvaluateConfig(samples=1000))
    run.data.sources["a"] = replace(run.data.sources["a"], held_out=share)
    return replace(run, data=replace(run.data, **changes))


def open_shares(run, dp_rank=0, dp_size=1):
    return open_held_out(run, dp_rank=dp_rank, dp_size=dp_size, read_pixels=True, share_skips=None)


def keys_of(rounds) -> list[str]:
    return [
        key for batches in rounds for batch in batches for key in batch.keys if key != "(empty)"
    ]


def trained_keys(run, steps=30) -> set[str]:
    batches = islice(open_loader(run).steps(4), steps)
    return {key for step in batches for pack in step.microbatches for key in pack.keys}


def test_what_is_held_out_is_never_trained_on(tmp_path):
    run = run_with_share(tmp_path)

    (held_out,) = open_shares(run).values()
    keys = keys_of(held_out.rounds(1))

    assert len(keys) == len(set(keys)) == held_out.samples
    assert 4 <= len(keys) <= 20
    assert trained_keys(run) == trained_keys(run_with_share(tmp_path, share=0.0)) - set(keys)


def test_the_draw_depends_on_names_alone(tmp_path):
    def keys(**changes):
        return set(keys_of(open_shares(run_with_share(tmp_path, **changes))["a"].rounds(1)))

    assert keys() == keys(seed=99)
    assert keys(share=0.1) < keys()


def test_ranks_share_the_packs_in_as_many_rounds(tmp_path):
    run = run_with_share(tmp_path)
    run.pack = PackConfig(text_tokens=128, tiles=4, window=16)
    alone = open_shares(run)["a"]

    halves = [list(open_shares(run, rank, 2)["a"].rounds(2)) for rank in range(2)]

    assert len(halves[0]) == len(halves[1]) > 1
    assert {len(batches) for half in halves for batches in half} == {2}
    together = [key for half in halves for key in keys_of(half)]
    assert sorted(together) == sorted(keys_of(alone.rounds(1)))


def test_a_limit_takes_the_first_packs(tmp_path):
    run = run_with_share(tmp_path)
    run.evaluate.samples = 3

    few, all_of_them = open_shares(run)["a"], open_shares(run_with_share(tmp_path))["a"]

    assert few.packs == all_of_them.packs[: len(few.packs)]
    assert 3 <= few.samples < all_of_them.samples


def test_a_folder_of_its_own_is_evaluated_completely(tmp_path):
    folder = write_chats(tmp_path / "other", shards=1, samples=6, name="o")
    run = tiny_run(tmp_path)
    run.evaluate = EvaluateConfig(sources={"other": SourceConfig(path=str(folder), epochs=0.5)})

    held_out = open_shares(run)

    assert list(held_out) == ["other"]
    assert sorted(keys_of(held_out["other"].rounds(1))) == [f"o{n:04}" for n in range(6)]


@pytest.mark.parametrize(("share", "what"), [(1e-9, "to evaluate"), (1 - 1e-9, "to train on")])
def test_a_share_that_leaves_nothing_is_refused(tmp_path, share, what):
    run = run_with_share(tmp_path, share=share)

    with pytest.raises(ConfigError, match=f"leaves none of 40 samples {what}"):
        (open_loader if what == "to train on" else open_shares)(run)


def test_problems_are_named(tmp_path):
    run = run_with_share(tmp_path, share=1.0)
    source = SourceConfig(path=str(tmp_path / "nowhere"))
    run.evaluate.sources = {"a": source}

    assert any("a.held_out=1.0 is outside" in problem for problem in data_problems(run.data))
    problems = list(held_out_problems(run.evaluate, run.data))
    assert any("evaluate.sources.a.path=" in problem for problem in problems)
    assert any("has the name of data.sources.a" in problem for problem in problems)


def test_a_resumed_run_keeps_its_share(tmp_path):
    plain = open_loader(run_with_share(tmp_path, share=0.0)).fingerprint
    changed = open_loader(run_with_share(tmp_path)).fingerprint

    assert "held_out" not in plain["data.sources.a"]
    assert changed["data.sources.a"] == plain["data.sources.a"] + f" held_out={SHARE}"
