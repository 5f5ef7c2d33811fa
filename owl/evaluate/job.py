# SPDX-License-Identifier: Apache-2.0
"""Ask every question once, over several ranks, and append each answer to a file."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch.distributed as dist

from owl.errors import DataError
from owl.evaluate.greedy import Answerer, in_groups
from owl.evaluate.metrics import Asked
from owl.evaluate.predictions import Prediction
from owl.evaluate.questions import Question

_BAD_SAMPLE = (DataError, ValueError, OSError)
"""What is raised for a picture that is missing or damaged."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The processes that share the questions; every one of them calls `gather` together."""

    rank: int = 0
    size: int = 1
    gather: Callable[[Any], list[Any]] = field(default=lambda mine: [mine])


def ranks_of(group: Any) -> Ranks:
    """Return the ranks of a process group, which share the questions."""

    def gather(mine: Any) -> list[Any]:
        of_ranks: list[Any] = [None] * group.size()
        dist.all_gather_object(of_ranks, mine, group=group)
        return of_ranks

    return Ranks(rank=group.rank(), size=group.size(), gather=gather)


def batches_of(questions: Sequence[Question], size: int) -> list[list[Question]]:
    """Group questions of similar length that have the same number of pictures.

    All questions are grouped, whatever was answered before and on how many ranks: an answer does
    not depend on either, as a sum's rounding may depend on the batch.
    """
    ordered = sorted(questions, key=lambda one: (len(one.images), len(one.text)))
    return [
        list(batch)
        for _, alike in groupby(ordered, key=lambda one: len(one.images))
        for batch in in_groups(list(alike), size)
    ]


def answer_all(
    batches: Sequence[Sequence[Question]],
    answer: Answerer,
    ask: Callable[[Question], str],
    ranks: Ranks,
) -> Iterator[list[Prediction]]:
    """Yield the answers to some batches, the same on every rank; rank r takes every size-th one."""
    for together in in_groups(batches, ranks.size):
        mine = together[ranks.rank] if ranks.rank < len(together) else []
        gathered = ranks.gather(answer_batch(mine, answer, ask))
        yield [prediction for predictions in gathered for prediction in predictions]


def answer_batch(
    questions: Sequence[Question], answer: Answerer, ask: Callable[[Question], str]
) -> list[Prediction]:
    """Answer questions; one whose picture cannot be used gets an error in place of an answer."""
    if not questions:
        return []
    try:
        answers = answer([question.sample(ask(question)) for question in questions])
    except _BAD_SAMPLE as error:
        if len(questions) == 1:
            return [_prediction(questions[0], ask, "", error=f"{type(error).__name__}: {error}")]
        return [line for question in questions for line in answer_batch([question], answer, ask)]
    return [
        _prediction(question, ask, text) for question, text in zip(questions, answers, strict=True)
    ]


def answered(questions: Sequence[Question], predictions: Sequence[Prediction]) -> list[Asked]:
    """Join questions that have references with their answers, in the order of the questions."""
    answers = {prediction.id: prediction.answer for prediction in predictions}
    return [
        Asked(question=question, answer=answers[question.id])
        for question in questions
        if question.answers and question.id in answers
    ]


def _prediction(
    question: Question, ask: Callable[[Question], str], answer: str, error: str | None = None
) -> Prediction:
    return Prediction(
        id=question.id,
        question=ask(question),
        images=[path.name for path in question.images],
        answer=answer,
        answers=question.answers,
        error=error,
    )
