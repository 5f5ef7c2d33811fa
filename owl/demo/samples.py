# SPDX-License-Identifier: Apache-2.0
"""The demo's texts about pictures: short conversations and interleaved documents.

A `Dialogue` has two uses. With files for its pictures it is a sample of the shards; with words in
their place it is text from which the tiny language model learns the grammar of answers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Any

from owl.data.shards.schema import SCHEMA, Json
from owl.demo.digits import WORDS

ORDINALS = ("first", "second", "third")
NAMING_QUESTIONS = ("What is this digit?", "What does the picture show?")
ORDINAL_QUESTIONS = ("What is the {} digit?", "What does the {} picture show?")
FINDING_QUESTION = "Which picture shows {}?"


class Kind(StrEnum):
    """Subject of a sample. The first three are also asked in the evaluation."""

    single = "single"  # one picture: which digit is it?
    several = "several"  # several pictures: which digit is the second?
    finding = "finding"  # several pictures: which of them shows a seven?
    captions = "captions"  # document: each picture is followed by its name
    listing = "listing"  # document: several pictures, then their names
    places = "places"  # document: several pictures, then where each digit is


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """A conversation or document about pictures."""

    kind: Kind
    labels: tuple[int, ...]  # digit that each picture shows, in order
    turns: list[Json]  # as in owl3-sample/1; {"media": i} is picture i


def make_dialogue(kind: Kind, labels: tuple[int, ...], rng: Random) -> Dialogue:
    """Write a dialogue of one kind about pictures that show `labels`.

    Args:
        kind: `single` takes one picture; `finding` and `places` need labels that differ.
        labels: digits 0 to 9, at most as many as there are ORDINALS.
        rng: chooses among wordings, and the order of questions.
    """
    return Dialogue(kind=kind, labels=labels, turns=_WRITERS[kind](labels, rng))


def draw_labels(kind: Kind, rng: Random) -> tuple[int, ...]:
    """Draw what the pictures of a new sample show."""
    if kind is Kind.single:
        return (rng.randrange(len(WORDS)),)
    count = rng.randint(2, len(ORDINALS))
    if kind in (Kind.finding, Kind.places):
        return tuple(rng.sample(range(len(WORDS)), count))
    return tuple(rng.choices(range(len(WORDS)), k=count))


def draw_kind(mixture: Mapping[Kind, float], rng: Random) -> Kind:
    """Draw a kind by its share in the mixture."""
    return rng.choices(list(mixture), list(mixture.values()))[0]


def to_document(dialogue: Dialogue, name: str, media: Sequence[Json]) -> dict[str, Any]:
    """Write a dialogue as owl3-sample/1.

    Args:
        dialogue: the text.
        name: unique in the data set.
        media: one entry per picture, or none when the text needs none.
    """
    is_document = dialogue.turns[0]["role"] == "document"
    return {
        "schema": SCHEMA,
        "id": name,
        "kind": "document" if is_document else "chat",
        "media": list(media),
        "turns": dialogue.turns,
    }


def first_exchange(dialogue: Dialogue) -> Dialogue:
    """Keep the first question and its answer only."""
    return Dialogue(kind=dialogue.kind, labels=dialogue.labels, turns=dialogue.turns[:2])


def with_article(label: int) -> str:
    """Return a digit's word with its article: `a seven`, `an eight`."""
    return f"{'an' if WORDS[label] == 'eight' else 'a'} {WORDS[label]}"


def _single(labels: tuple[int, ...], rng: Random) -> list[Json]:
    return _chat(labels, [(rng.choice(NAMING_QUESTIONS), WORDS[labels[0]])])


def _several(labels: tuple[int, ...], rng: Random) -> list[Json]:
    """Ask for every picture by its number."""
    return _chat(
        labels,
        [
            (rng.choice(ORDINAL_QUESTIONS).format(ORDINALS[place]), WORDS[labels[place]])
            for place in _shuffled_places(labels, rng)
        ],
    )


def _finding(labels: tuple[int, ...], rng: Random) -> list[Json]:
    """Ask for the number of every picture."""
    return _chat(
        labels,
        [
            (FINDING_QUESTION.format(with_article(labels[place])), ORDINALS[place])
            for place in _shuffled_places(labels, rng)
        ],
    )


def _captions(labels: tuple[int, ...], rng: Random) -> list[Json]:
    parts: list[Json] = []
    for place, label in enumerate(labels):
        parts += [{"media": place}, {"text": f"This is {with_article(label)}."}]
    return [{"role": "document", "content": parts}]


def _listing(labels: tuple[int, ...], rng: Random) -> list[Json]:
    named = ", ".join(WORDS[label] for label in labels)
    parts = [*_pictures(labels), {"text": f"The digits are {named}."}]
    return [{"role": "document", "content": parts}]


def _places(labels: tuple[int, ...], rng: Random) -> list[Json]:
    """Name the place of each digit: as `finding`, with more answers per token."""
    order = _shuffled_places(labels, rng)
    listed = ", ".join(f"the {WORDS[labels[place]]} is {ORDINALS[place]}" for place in order)
    return [{"role": "document", "content": [*_pictures(labels), {"text": f"{listed}."}]}]


_WRITERS: dict[Kind, Callable[[tuple[int, ...], Random], list[Json]]] = {
    Kind.single: _single,
    Kind.several: _several,
    Kind.finding: _finding,
    Kind.captions: _captions,
    Kind.listing: _listing,
    Kind.places: _places,
}


def _shuffled_places(labels: tuple[int, ...], rng: Random) -> list[int]:
    return rng.sample(range(len(labels)), len(labels))


def _chat(labels: tuple[int, ...], exchanges: Sequence[tuple[str, str]]) -> list[Json]:
    """Show all pictures before the first question."""
    turns: list[Json] = []
    for question, answer in exchanges:
        shown = [] if turns else _pictures(labels)
        turns.append({"role": "user", "content": [*shown, {"text": question}]})
        turns.append({"role": "assistant", "content": [{"text": answer}]})
    return turns


def _pictures(labels: tuple[int, ...]) -> list[Json]:
    return [{"media": place} for place in range(len(labels))]
