# SPDX-License-Identifier: Apache-2.0
from random import Random

import pytest

from owl.demo.digits import WORDS
from owl.demo.samples import ORDINALS, Kind, draw_labels, make_dialogue, to_document, with_article


def exchanges(dialogue):
    """(question, answer) pairs of a conversation."""
    texts = [turn["content"][-1]["text"] for turn in dialogue.turns]
    return list(zip(texts[::2], texts[1::2], strict=True))


def text_of(dialogue):
    """A document's text, with `#i` in the place of picture i."""
    (turn,) = dialogue.turns
    return "".join(part.get("text") or f"#{part['media']}" for part in turn["content"])


def test_a_single_question_is_answered_by_what_the_picture_shows():
    ((question, answer),) = exchanges(make_dialogue(Kind.single, (7,), Random(0)))
    assert question in ("What is this digit?", "What does the picture show?")
    assert answer == "seven"


def test_each_ordinal_question_is_answered_by_the_picture_in_that_place():
    labels = (3, 3, 8)
    asked = exchanges(make_dialogue(Kind.several, labels, Random(0)))
    assert len(asked) == 3
    for question, answer in asked:
        (place,) = [i for i, ordinal in enumerate(ORDINALS) if f" {ordinal} " in question]
        assert answer == WORDS[labels[place]]


def test_each_finding_question_is_answered_by_the_place_of_the_digit():
    labels = (4, 8, 1)
    asked = dict(exchanges(make_dialogue(Kind.finding, labels, Random(0))))
    assert asked == {
        "Which picture shows a four?": "first",
        "Which picture shows an eight?": "second",
        "Which picture shows a one?": "third",
    }


def test_documents_name_their_pictures_in_order():
    assert text_of(make_dialogue(Kind.captions, (8, 2), Random(0))) == (
        "#0This is an eight.#1This is a two."
    )
    assert (
        text_of(make_dialogue(Kind.listing, (8, 2), Random(0))) == "#0#1The digits are eight, two."
    )


def test_places_say_where_each_digit_is():
    text = text_of(make_dialogue(Kind.places, (8, 2), Random(0)))
    assert text in (
        "#0#1the eight is first, the two is second.",
        "#0#1the two is second, the eight is first.",
    )


@pytest.mark.parametrize("kind", list(Kind))
def test_every_picture_is_shown_once_and_before_it_is_asked_about(kind):
    labels = draw_labels(kind, Random(5))
    dialogue = make_dialogue(kind, labels, Random(0))
    shown = [
        part["media"] for turn in dialogue.turns for part in turn["content"] if "media" in part
    ]
    assert shown == list(range(len(labels)))


def test_a_digit_to_be_found_is_never_there_twice():
    rng = Random(0)
    drawn = [draw_labels(Kind.finding, rng) for _ in range(200)]
    assert all(len(set(labels)) == len(labels) for labels in drawn)
    assert {len(labels) for labels in drawn} == {2, 3}


def test_a_document_says_which_kind_it_is():
    media = [{"type": "image", "file": "m0000.png"}]
    chat = to_document(make_dialogue(Kind.single, (1,), Random(0)), "x", media)
    document = to_document(make_dialogue(Kind.captions, (1,), Random(0)), "x", media)
    assert (chat["kind"], document["kind"]) == ("chat", "document")


def test_only_eight_takes_an():
    assert [with_article(label) for label in (7, 8, 1)] == ["a seven", "an eight", "a one"]
