# SPDX-License-Identifier: Apache-2.0
"""Questions about held-out pictures, and a control where each question gets a wrong picture."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from owl.data.samples import RawSample
from owl.demo.digits import Digits, png_bytes
from owl.demo.samples import ORDINALS, Dialogue, Kind, first_exchange, make_dialogue
from owl.demo.shards import picture_sample

SWAPPED = "swapped"
"""The control: the questions of `single`, with the pictures exchanged among them."""
QUESTION_KINDS = (Kind.single, Kind.several, Kind.finding, SWAPPED)
SEED = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question with the pictures shown for it."""

    kind: str  # one of QUESTION_KINDS
    dialogue: Dialogue  # the question and its true answer
    asked_of: tuple[int, ...]  # rows of the pictures that the truth is about
    shown: tuple[int, ...]  # rows of the pictures that the model sees

    @property
    def text(self) -> str:
        """The question, without its pictures."""
        return str(self.dialogue.turns[0]["content"][-1]["text"])

    @property
    def truth(self) -> str:
        """The answer that counts as right."""
        return str(self.dialogue.turns[1]["content"][0]["text"])


def build_questions(labels: Sequence[int], *, seed: int = SEED) -> list[Question]:
    """Ask one question of each kind about every picture.

    Args:
        labels: [n] the digit that each picture shows.
        seed: of wordings, of the other pictures shown, and of the exchange.
    """
    rng = Random(seed)
    rows = range(len(labels))
    naming = [_ask(Kind.single, (row,), labels, rng) for row in rows]
    return [
        *naming,
        *(_ask(Kind.several, _draw_others(row, labels, rng), labels, rng) for row in rows),
        *(_ask(Kind.finding, _draw_different(row, labels, rng), labels, rng) for row in rows),
        *swap(naming, rng),
    ]


def swap(questions: Sequence[Question], rng: Random) -> Iterator[Question]:
    """Exchange the pictures of one-picture questions so that none keeps its own.

    Question and truth stay the same: a model that uses the pictures now answers wrongly.
    """
    order = derangement(len(questions), rng)
    for question, other in zip(questions, order, strict=True):
        yield Question(
            kind=SWAPPED,
            dialogue=question.dialogue,
            asked_of=question.asked_of,
            shown=questions[other].shown,
        )


def derangement(count: int, rng: Random) -> list[int]:
    """Draw a permutation without fixed points (count of 2 or more)."""
    order = list(range(count))
    while True:
        rng.shuffle(order)
        # About one shuffle in e has no fixed point.
        if all(place != item for place, item in enumerate(order)):
            return order


def question_sample(number: int, question: Question, digits: Digits) -> RawSample:
    """Write a question as a sample, with the pictures that it shows."""
    files = [png_bytes(digits.pictures[row]) for row in question.shown]
    return picture_sample(f"{question.kind}_{number:06}", question.dialogue, files)


def _ask(kind: Kind, rows: tuple[int, ...], labels: Sequence[int], rng: Random) -> Question:
    dialogue = make_dialogue(kind, tuple(int(labels[row]) for row in rows), rng)
    return Question(kind=kind, dialogue=first_exchange(dialogue), asked_of=rows, shown=rows)


def _draw_others(row: int, labels: Sequence[int], rng: Random) -> tuple[int, ...]:
    """Shuffle a picture among others, whatever they show."""
    others = rng.sample([other for other in range(len(labels)) if other != row], len(ORDINALS) - 1)
    return tuple(_shuffled([row, *others], rng))


def _draw_different(row: int, labels: Sequence[int], rng: Random) -> tuple[int, ...]:
    """Shuffle a picture among others that show other digits, so that each can be asked for."""
    rows = [row]
    while len(rows) < len(ORDINALS):
        other = rng.randrange(len(labels))
        if labels[other] not in {labels[known] for known in rows}:
            rows.append(other)
    return tuple(_shuffled(rows, rng))


def _shuffled(rows: list[int], rng: Random) -> list[int]:
    return rng.sample(rows, len(rows))
