# SPDX-License-Identifier: Apache-2.0
"""Questions as people have them: records of several kinds, and what is wrong with others."""

import json

import pytest

from owl.data.shards.document import MediaPart, TextPart
from owl.errors import OwlError
from owl.evaluate.questions import read_questions
from tests.unit.data.shard_factory import picture


def write(folder, *records):
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_record_in_the_words_of_the_documentation(tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture())
    record = {
        **{"id": 7, "image": "a.jpg", "question": "Which?", "answers": ["red"]},
        **{"options": ["red", "blue"], "category": "colour", "pair": "p1"},
    }

    (question,) = read_questions(write(tmp_path, record))

    assert (question.id, question.text, question.pair) == ("7", "Which?", "p1")
    assert (question.options, question.answers, question.category) == (
        ["red", "blue"], ["red"], "colour",
    )  # fmt: skip
    assert question.images == [tmp_path / "a.jpg"]


def test_the_records_of_owleval_vqa_and_mme(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/1.jpg").write_bytes(picture())
    owleval = {"image": "1.jpg", "question_id": 1, "question": "Why?", "category": ["a", "b"]}
    vqa = {"question_id": 2, "question": "What?", "answers": [{"answer": "owl"}, {"answer": "2"}]}
    lettered = {"id": "x", "text": "Which?", "options": {"B": "two", "A": "one"}, "answer": "B"}
    write(tmp_path, owleval, vqa, lettered)

    first, second, third = read_questions(tmp_path)

    assert first.images == [tmp_path / "images/1.jpg"]
    assert (first.category, first.answers) == ("a, b", [])
    assert second.answers == ["owl", "2"]
    assert (third.options, third.answers) == (["one", "two"], ["B"])


def test_pictures_precede_the_question_unless_it_names_their_places(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(picture())
    plain = {"id": 1, "images": ["a.jpg", "b.jpg"], "question": "Same?"}
    placed = {"id": 2, "images": ["a.jpg", "b.jpg"], "question": "Is <image> like <image>?"}

    parts = [
        list(question.sample(question.text).document.turns[0].content)
        for question in read_questions(write(tmp_path, plain, placed))
    ]

    assert parts[0] == [MediaPart(0), MediaPart(1), TextPart("Same?")]
    assert parts[1] == [
        *(TextPart("Is "), MediaPart(0), TextPart(" like "), MediaPart(1), TextPart("?")),
    ]


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ([1], "line 1: a list, not an object"),
        ({"question": 3}, "question=3 must be text"),
        ({"question": "a", "image": 3}, "must be a path"),
        ({"question": "<image>?", "images": []}, "1 <image> for 0 picture(s)"),
        ({"question": "a", "answers": [None]}, "must be texts"),
        ({"question": "a", "options": 3}, "must be a list"),
    ],
)
def test_what_is_wrong_with_a_line_is_named(tmp_path, record, sentence):
    with pytest.raises(OwlError) as caught:
        read_questions(write(tmp_path, record))

    assert sentence in str(caught.value)


def test_ten_problems_are_shown_and_the_others_counted(tmp_path):
    with pytest.raises(OwlError) as caught:
        read_questions(write(tmp_path, *[{"question": 3}] * 12))

    assert str(caught.value).count("must be text") == 10
    assert "and 2 more" in str(caught.value)


def test_an_id_names_one_question(tmp_path):
    with pytest.raises(OwlError, match="id '7' has 2 lines"):
        read_questions(write(tmp_path, *[{"id": 7, "question": "a"}] * 2))


@pytest.mark.parametrize("content", ["", "{"])
def test_a_file_without_questions_is_an_error(tmp_path, content):
    (tmp_path / "questions.jsonl").write_text(content)

    with pytest.raises(OwlError, match=r"questions\.jsonl"):
        read_questions(tmp_path)
