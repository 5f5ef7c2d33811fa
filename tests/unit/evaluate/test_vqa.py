# SPDX-License-Identifier: Apache-2.0
"""VQA's normalisation and accuracy, on cases written out by its published rules."""

import pytest

from owl.evaluate.vqa import normalise, vqa_accuracy

CASES = [
    ("Yes", "yes"),
    ("yes.", "yes"),
    ("Yes!", "yes"),
    ("  yes \n", "yes"),
    ("a dog", "dog"),
    ("The Dog", "dog"),
    ("an old man and the sea", "old man and sea"),
    ("two", "2"),
    ("Two dogs", "2 dogs"),
    ("none", "0"),
    ("zero", "0"),
    ("ten", "10"),
    ("eleven", "eleven"),
    ("2", "2"),
    ("2.", "2"),
    ("3.5", "3.5"),
    (".5", ".5"),
    ("1,000", "1000"),
    ("1,000 people, at least", "1000 people at least"),
    ("$5", "$5"),
    ("5:30", "5:30"),
    ("50%", "50%"),
    ("dont know", "don't know"),
    ("don't know", "don't know"),
    ("cant", "can't"),
    ("Thats a cat", "that's cat"),
    ("wouldn'tve", "wouldn't've"),
    ("wouldnt've", "wouldn't've"),
    ("wouldntve", "wouldntve"),  # both apostrophes are missing: not in the table
    ("im here", "im here"),  # the table has it with a capital, which no answer has any more
    ("twas", "'twas"),
    ("oclock", "o'clock"),
    ("man's", "man's"),
    ("red/blue", "red blue"),
    ("red / blue", "red blue"),
    ("t-shirt", "t shirt"),
    ("black-and-white", "black and white"),
    ("left (side)", "left side"),
    ("cat, dog", "cat dog"),
    ("cat,dog", "cat dog"),
    ("U.S.A.", "usa"),
    ("hello_world", "hello world"),
    ('"stop"', "stop"),
    ("a\tb", "b"),
    ("what?", "what"),
    ("", ""),
]


@pytest.mark.parametrize(("answer", "expected"), CASES)
def test_answers_are_normalised_as_published(answer, expected):
    assert normalise(answer) == expected


@pytest.mark.parametrize(("agreeing", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1)])
def test_ten_annotators_are_left_out_one_by_one(agreeing, expected):
    answers = ["an owl"] * agreeing + [f"bird {n}x" for n in range(10 - agreeing)]

    assert vqa_accuracy("Owl.", answers) == pytest.approx(expected)


def test_all_annotators_agree_with_a_normalised_answer():
    assert vqa_accuracy("Two.", ["2"] * 10) == 1.0


def test_of_few_references_any_counts():
    assert vqa_accuracy("the owl", ["bird", "Owl"]) == 1.0
    assert vqa_accuracy("cat", ["bird", "Owl"]) == 0.0
