# SPDX-License-Identifier: Apache-2.0
"""What the training commands compose: problems of config and data, the demo's data, training."""

from pathlib import Path

import pytest

import owl.data.problems
import owl.demo.prepare
import owl.train.run
from owl.command.train import data_problems_of, main, train_run
from owl.config.load import EXIT_BAD_CONFIG, compose
from owl.config.run import RunConfig


def run_of(*overrides: str) -> RunConfig:
    run, problems = compose("pretrain", overrides)
    assert problems == []
    return run


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was called, in order; nothing is made and nothing is trained."""
    calls: list[str] = []
    monkeypatch.setattr(
        owl.demo.prepare, "prepare_demo", lambda folder, family: calls.append(str(folder))
    )
    monkeypatch.setattr(owl.train.run, "train", lambda run: calls.append("train"))
    return calls


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("data.sources.demo.path=''", "data.sources.demo.path is not set"),
        ("data.tokenizer=''", "data.tokenizer is not set"),
        ("data.sources.mine.path=/no/such/shards", "/no/such/shards"),
    ],
)
def test_what_the_demo_makes_may_be_missing_but_other_data_may_not(tmp_path, override, sentence):
    demo = f"data.demo_folder={tmp_path}/not_made_yet"
    assert list(data_problems_of(run_of(demo))) == []

    (problem,) = data_problems_of(run_of(demo, override))
    assert sentence in problem


def test_problems_of_config_and_data_are_one_list_and_data_is_checked_once(
    calls, capsys, monkeypatch
):
    checked = []

    def problems(data):
        checked.append(data)
        yield "data.tokenizer is missing."

    monkeypatch.setattr(owl.data.problems, "data_problems", problems)
    with pytest.raises(SystemExit, match=str(EXIT_BAD_CONFIG)):
        main("pretrain", ["parallel.tensor=0"])

    printed = capsys.readouterr().err
    assert "parallel.tensor=0 is below 1" in printed
    assert "data.tokenizer is missing." in printed
    assert (len(checked), calls) == (1, [])


def test_the_demo_is_made_before_a_run_that_reads_it(calls, tmp_path):
    train_run(run_of(f"data.demo_folder={tmp_path}"))
    assert calls == [str(tmp_path), "train"]


@pytest.mark.parametrize("override", ["dry_run=true", "data=example"])
def test_a_dry_run_and_a_run_on_other_data_make_no_demo(calls, override):
    train_run(run_of(override))
    assert calls == ["train"]


def test_help_does_not_look_at_the_data(capsys, monkeypatch):
    monkeypatch.setattr(owl.data.problems, "data_problems", lambda data: pytest.fail("checked"))
    main("pretrain", ["--help"])
    assert Path("pretrain_owl3.py").name in capsys.readouterr().out
