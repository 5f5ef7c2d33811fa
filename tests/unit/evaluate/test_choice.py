# SPDX-License-Identifier: Apache-2.0
"""The option that an answer to a multiple-choice question means."""

import pytest

from owl.evaluate.choice import SUFFIX, chosen_option, right_option, with_options

OPTIONS = ["a red car", "blue", "green", "none of them"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("B", 1),
        ("b", 1),
        ("B.", 1),
        ("(B)", 1),
        (" (c) ", 2),
        ("B. blue", 1),
        ("B) blue", 1),
        ("B: blue", 1),
        ("B - blue", 1),
        ("B\nbecause it is", 1),
        ("The answer is C.", 2),
        ("The answer is (C), not B", 2),
        ("Answer: D", 3),
        ("I choose option B", 1),
        ("blue", 1),
        ("Blue.", 1),
        ("The red car", 0),
        ("It is blue", 1),
        ("A red car", 0),
        ("A car in a colour", None),  # an article
        ("It must be C, I think", 2),
        ("C or D", None),
        ("blue or green", None),
        ("E", None),
        ("purple", None),
        ("", None),
    ],
)
def test_letters_and_texts_of_options_are_found(answer, expected):
    assert chosen_option(answer, OPTIONS) == expected


def test_options_are_lines_below_the_question():
    assert with_options("Which?", ["red", "blue"]) == "Which?\nA. red\nB. blue"
    assert "option\u2019s letter" in SUFFIX


@pytest.mark.parametrize(
    ("answer", "expected"), [("B", 1), ("(b)", 1), ("green", 2), ("E", None), ("red", None)]
)
def test_a_reference_is_a_letter_or_the_text(answer, expected):
    assert right_option(answer, OPTIONS) == expected


def test_the_text_of_an_option_precedes_its_letter():
    assert right_option("B", ["B", "A"]) == 0
