# SPDX-License-Identifier: Apache-2.0
"""Asking, resuming, scoring: with an answerer that can be predicted."""

import json

import pytest

from owl.errors import OwlError
from owl.evaluate.intervals import interval, wilson
from owl.evaluate.job import Ranks, answer_all, batches_of
from owl.evaluate.metrics import METRICS
from owl.evaluate.predictions import PredictionFolder
from owl.evaluate.questions import Question
from owl.evaluate.report import results_of, table
from tests.unit.data.shard_factory import picture

EXACT, YESNO = METRICS["exact"], METRICS["yesno"]


def questions(folder, count=7):
    (folder / "a.jpg").write_bytes(picture())
    return [
        Question(id=str(n), text="?" * (7 - n), images=[folder / "a.jpg"] * (n % 3), answers=["2"])
        for n in range(count)
    ]


def answer(samples):
    """Answer with the number of pictures."""
    for sample in samples:
        if b"torn" in sample.files.values():
            raise ValueError("torn")
    return [str(len(sample.files)) for sample in samples]


def run(asked, batch_size=2, ranks=None):
    batches = batches_of(asked, batch_size)
    return [
        one for some in answer_all(batches, answer, EXACT.ask, ranks or Ranks()) for one in some
    ]


def test_batches_are_of_similar_questions_with_the_same_number_of_pictures(tmp_path):
    batches = batches_of(questions(tmp_path), 2)

    assert [[one.id for one in batch] for batch in batches] == [
        ["6", "3"],
        ["0"],
        ["4", "1"],
        ["5", "2"],
    ]


def test_two_ranks_give_the_file_of_one(tmp_path):
    asked = questions(tmp_path)
    others = []

    def gather(mine):
        # What the other rank answers to its share of the same batches.
        others.append(mine)
        return [mine]

    halves = [run(asked, ranks=Ranks(rank=rank, size=2, gather=gather)) for rank in range(2)]

    assert {one.id for half in halves for one in half} == {one.id for one in asked}
    assert not {one.id for one in halves[0]} & {one.id for one in halves[1]}


@pytest.mark.parametrize("content", [None, b"torn"])
def test_a_bad_picture_costs_its_own_question_only(tmp_path, content):
    asked = questions(tmp_path)
    bad = tmp_path / "bad.jpg"
    if content:
        bad.write_bytes(content)
    asked[4] = Question(id="bad", text="?", images=[bad], answers=["1"])

    predictions = run(asked, batch_size=7)

    failed = [one for one in predictions if one.error]
    assert [one.id for one in failed] == ["bad"]
    assert {one.id: one.answer for one in predictions if one.id == "1"} == {"1": "1"}
    results = results_of(asked, predictions, EXACT)
    assert (results["failed"], results["scored"]) == (1, 7)
    assert "1 of 7 questions could not be asked and count as wrong; the first one, bad:" in table(
        results
    )


def test_a_second_process_sees_what_the_first_one_answered(tmp_path):
    asked, output = questions(tmp_path), tmp_path / "out"
    lines = run(asked)
    PredictionFolder(output, {"model": "m"}, replace=False).append(lines[:3])
    file = output / "predictions.jsonl"
    complete = file.read_text()
    file.write_text(complete + '{"id": "unfin')

    folder = PredictionFolder(output, {"model": "m"}, replace=False)

    assert folder.read() == lines[:3]
    folder.append(lines[3:])
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == [
        line.id for line in lines
    ]


def test_answers_of_other_settings_are_kept_apart(tmp_path):
    PredictionFolder(tmp_path, {"model": "m"}, replace=False).append(run(questions(tmp_path)))

    with pytest.raises(OwlError, match="model: 'm' there, 'n' now"):
        PredictionFolder(tmp_path, {"model": "n"}, replace=False)
    assert PredictionFolder(tmp_path, {"model": "n"}, replace=True).read() == []


def test_the_table_has_a_line_for_each_category(tmp_path):
    asked = [
        Question(id=str(n), text="?", answers=["0" if n < 3 else "x"], category="ab"[n % 2])
        for n in range(4)
    ]

    results = results_of(asked, run(asked), EXACT)

    assert {name: score["score"] for name, score in results["scores"].items()} == {
        "all": 75.0, "a": 100.0, "b": 50.0,
    }  # fmt: skip
    assert "all" in table(results).splitlines()[1]


def test_questions_without_references_are_answered_and_not_scored():
    asked = [Question(id="1", text="?")]

    results = results_of(asked, run(asked), EXACT)

    assert results["scores"] == {}
    assert table(results) == "1 of 1 questions have no reference answer: not scored"


def test_yes_and_no_count_in_pairs():
    answers = {"1": "yes", "2": "yes", "3": "Yes.", "4": "No"}
    asked = [
        Question(id=i, text="?", answers=["yes" if i in "13" else "no"], pair="ab"[i in "34"])
        for i in answers
    ]
    batches = batches_of(asked, 4)
    predictions = [
        one
        for some in answer_all(
            batches, lambda samples: [answers[s.key] for s in samples], YESNO.ask, Ranks()
        )
        for one in some
    ]

    results = results_of(asked, predictions, YESNO)

    assert results["scores"]["all"]["score"] == 75.0
    assert results["figures"]["accuracy+"] == 50.0
    assert list(results["figures"].values())[1] == 125.0


@pytest.mark.parametrize(
    ("metric", "question", "sentence"),
    [
        ("vqa", Question(id="1", text=""), "has no text"),
        ("choice", Question(id="1", text="?", options=["a"]), "has no options"),
        ("choice", Question(id="1", text="?", options=["a", "b"], answers=["c"]), "neither"),
        ("yesno", Question(id="1", text="?", answers=["maybe"]), "neither yes nor no"),
        ("caption", Question(id="1", text=""), None),
    ],
)
def test_a_metric_names_what_it_cannot_score(metric, question, sentence):
    problem = METRICS[metric].problem_of(question)

    assert (sentence in problem) if sentence else problem is None


def test_each_metric_asks_as_published():
    question = Question(id="1", text="Which?", options=["red", "blue"])

    assert METRICS["choice"].ask(question) == (
        "Which?\nA. red\nB. blue\nAnswer with the option\u2019s letter from the given choices "
        "directly."
    )
    asked = METRICS["vqa"].ask(Question(id="1", text="What?"))
    assert asked == "What?\nAnswer the question using a single word or phrase."
    assert METRICS["vqa"].ask(Question(id="1", text=asked)) == asked
    assert METRICS["vqa"].ask(Question(id="1", text="What?"), "") == "What?"
    assert METRICS["caption"].ask(Question(id="1", text="")).startswith("Provide a one-sentence")


def test_wilsons_interval_is_that_of_the_textbook():
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)


def test_other_scores_are_resampled_the_same_each_time():
    scores = [0.0, 0.3, 0.6, 1.0] * 25

    low, high = interval(scores)

    assert (low, high) == interval(scores)
    assert 0.38 < low < 0.475 < high < 0.57
