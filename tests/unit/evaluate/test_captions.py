# SPDX-License-Identifier: Apache-2.0
"""CIDEr-D, checked against values that pycocoevalcap's CiderScorer gives for the same words."""

import pytest

from owl.evaluate.captions import cider, words_of

CAPTIONS = ["a man rides a red bike", "two dogs play on the beach", "a cup of coffee"]
REFERENCES = [
    ["a man is riding a red bike", "a person rides a bicycle"],
    ["two dogs play on the beach", "dogs run near the sea"],
    ["an owl sits in a tree"],
]


PUBLISHED = [2.571488591488844, 5.450139903510644, 0.08026132701664855]


def test_scores_are_those_of_the_published_code():
    assert cider(CAPTIONS, REFERENCES) == pytest.approx(PUBLISHED, rel=1e-9)


def test_a_phrase_that_every_picture_has_counts_nothing():
    assert cider(["a dog", "a dog"], [["a dog"], ["a dog"]]) == [0.0, 0.0]


@pytest.mark.parametrize("references", [[], [[]]])
def test_nothing_to_compare_with_scores_nothing(references):
    assert cider([""] * len(references), references) == [0.0] * len(references)


def test_words_are_those_of_the_penn_treebank():
    text = "A man doesn't see it's black-and-white, \"U.S.\" $5.50 (3,000)!"

    assert words_of(text) == [
        *("a", "man", "does", "n't", "see", "it", "'s", "black-and-white"),
        *("u.s", "$", "5.50", "3,000"),
    ]
