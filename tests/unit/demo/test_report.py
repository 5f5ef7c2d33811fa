# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from PIL import Image

from owl.demo.evaluate import Prediction
from owl.demo.plots import plot_answers, plot_losses, smooth
from owl.demo.report import (
    accuracy_table,
    final_report,
    save_summary,
    summarise,
    unexpected_results,
)

GOOD = {
    ("start", "single"): 10,
    ("stage1", "single"): 90,
    ("stage2", "single"): 95,
    ("stage2", "several"): 90,
    ("stage2", "finding"): 40,
    ("exported", "single"): 95,
    ("exported", "several"): 90,
    ("exported", "finding"): 40,
}


def predictions_with(percent_right):
    """100 answers of each kind and stage; those not named are all wrong."""
    return [
        Prediction(
            stage=stage,
            kind=kind,
            question="What is this digit?",
            indices=[1437 + number] * (1 if kind in ("single", "swapped") else 3),
            asked_of=[1437 + number],
            truth="seven",
            answer="seven" if number < percent_right.get((stage, kind), 0) else "one",
        )
        for stage in ("start", "stage1", "stage2", "exported")
        for kind in ("single", "several", "finding", "swapped")
        for number in range(100)
    ]


def summary_of(percent_right, **options):
    settings = {
        "frozen_tensors_changed": 0,
        "logit_differences": {"packed": 1e-6, "single": 2e-6},
        "seconds": 90.0,
    }
    return summarise(predictions_with(percent_right), **(settings | options))


def test_the_summary_holds_fractions_by_stage_and_kind(tmp_path):
    save_summary(tmp_path, summary_of(GOOD))
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["accuracy"]["stage1"] == {
        "single": 0.9,
        "several": 0.0,
        "finding": 0.0,
        "swapped": 0.0,
    }
    assert written["accuracy"]["stage2"]["several"] == 0.9
    assert written["finding_chance"] == pytest.approx(1 / 3)
    assert written["frozen_tensors_changed"] == 0
    assert written["seconds"] == 90.0


def test_a_run_that_keeps_every_promise_has_no_shortfall():
    assert list(unexpected_results(summary_of(GOOD))) == []


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({("stage1", "single"): 74}, "single after stage1 is 74.0%, expected at least 75%"),
        ({("stage2", "several"): 79}, "several after stage2 is 79.0%, expected at least 80%"),
        ({("start", "single"): 21}, "single at start is 21.0%, expected at most 20%"),
        ({("stage2", "swapped"): 30}, "swapped at stage2 is 30.0%, expected at most 20%"),
    ],
)
def test_each_broken_promise_is_named(changed, sentence):
    assert sentence in list(unexpected_results(summary_of(GOOD | changed)))


def test_answers_that_the_export_changed_are_a_broken_promise():
    changed = GOOD | {("exported", "several"): 88, ("exported", "single"): 96}
    (sentence,) = unexpected_results(summary_of(changed))
    assert sentence == "3 answers of owl.hf are not the trainer's"


def test_logits_that_drift_apart_are_a_broken_promise():
    (sentence,) = unexpected_results(
        summary_of(GOOD, logit_differences={"packed": 1e-6, "single": 2e-5})
    )
    assert sentence.startswith("logits of owl.hf and the trainer differ by 2.0e-05 on single")
    (sentence,) = unexpected_results(summary_of(GOOD, logit_differences={"packed": float("nan")}))
    assert "nan on packed" in sentence


def test_a_frozen_tensor_that_changed_is_a_broken_promise():
    (sentence,) = unexpected_results(summary_of(GOOD, frozen_tensors_changed=2))
    assert sentence == "stage 1 changed 2 tensors that were frozen"


def test_the_table_has_a_row_for_each_kind_and_a_column_for_each_stage():
    header, single, *_ = accuracy_table(summary_of(GOOD)).splitlines()
    assert header.split()[-4:] == ["start", "stage1", "stage2", "owl.hf"]
    assert single.split()[:5] == ["single", "10.0%", "90.0%", "95.0%", "95.0%"]


def test_the_closing_words_name_changed_tensors_and_every_file(tmp_path):
    words = final_report(tmp_path, summary_of(GOOD), ["embedding.word_embeddings.weight"])
    assert "embedding.word_embeddings.weight" in words
    assert "the trainer's answer to 400 of 400 questions" in words
    for file in ("exported", "summary.json", "predictions.jsonl", "losses.png", "held_out.png"):
        assert file in words


def test_smoothing_averages_neighbours_and_clips_at_the_ends():
    smoothed = smooth([1.0] * 20 + [4.0] + [1.0] * 18 + [2.0, 4.0])  # 41 steps: three at a time
    assert smoothed[19:22] == pytest.approx([2.0] * 3)
    assert smoothed[0] == 1.0
    assert smoothed[-1] == pytest.approx(3.0)
    assert smooth([]) == []


def test_both_pictures_are_drawn(tmp_path):
    plot_losses(tmp_path / "losses.png", {"one": [(1, 2.0), (2, 1.0)], "two": [(1, 0.5)]})
    last = [asked for asked in predictions_with(GOOD) if asked.stage == "stage2"]
    plot_answers(tmp_path / "held_out.png", last)
    for name in ("losses.png", "held_out.png"):
        picture = Image.open(tmp_path / name)
        assert picture.width >= 1000
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 20
