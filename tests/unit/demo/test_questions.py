# SPDX-License-Identifier: Apache-2.0
from collections import Counter
from random import Random

import pytest

from owl.demo.digits import WORDS
from owl.demo.questions import (
    QUESTION_KINDS,
    SWAPPED,
    build_questions,
    derangement,
    question_sample,
)
from owl.demo.samples import ORDINALS
from tests.unit.demo.pictures import grey_digits

LABELS = [row % 10 for row in range(30)]


@pytest.fixture(scope="module")
def questions():
    return build_questions(LABELS)


def of_kind(questions, kind):
    return [question for question in questions if question.kind == kind]


def test_every_kind_asks_about_every_picture_once(questions):
    assert Counter(question.kind for question in questions) == dict.fromkeys(QUESTION_KINDS, 30)
    for kind in QUESTION_KINDS:
        asked = of_kind(questions, kind)
        assert all(row in question.asked_of for row, question in enumerate(asked))


def test_the_truth_of_a_naming_question_is_what_its_picture_shows(questions):
    for question in of_kind(questions, "single"):
        assert question.truth == WORDS[LABELS[question.shown[0]]]


def test_the_truth_of_an_ordinal_question_is_the_picture_in_that_place(questions):
    for question in of_kind(questions, "several"):
        (place,) = [i for i, ordinal in enumerate(ORDINALS) if f" {ordinal} " in question.text]
        assert question.truth == WORDS[LABELS[question.shown[place]]]


def test_exactly_one_picture_shows_the_digit_to_be_found(questions):
    for question in of_kind(questions, "finding"):
        wanted = question.text.removesuffix("?").split()[-1]
        places = [i for i, row in enumerate(question.shown) if WORDS[LABELS[row]] == wanted]
        assert [ORDINALS[place] for place in places] == [question.truth]


def test_a_swapped_question_keeps_its_truth_and_loses_its_picture(questions):
    pairs = zip(of_kind(questions, "single"), of_kind(questions, SWAPPED), strict=True)
    for naming, swapped in pairs:
        assert (swapped.text, swapped.truth) == (naming.text, naming.truth)
        assert swapped.asked_of == naming.shown
        assert swapped.shown != naming.shown
    shown = [question.shown for question in of_kind(questions, SWAPPED)]
    assert sorted(shown) == [(row,) for row in range(30)]


@pytest.mark.parametrize("count", [2, 3, 50])
def test_a_derangement_leaves_nothing_in_its_place(count):
    for seed in range(20):
        order = derangement(count, Random(seed))
        assert sorted(order) == list(range(count))
        assert all(place != item for place, item in enumerate(order))


def test_a_question_is_written_with_the_pictures_it_shows(questions):
    digits = grey_digits(LABELS)
    question = of_kind(questions, "several")[4]
    sample = question_sample(4, question, digits)
    assert sample.key == "several_000004"
    assert len(sample.files) == len(question.shown) == 3
