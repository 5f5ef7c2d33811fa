# SPDX-License-Identifier: Apache-2.0
"""The metrics: how each asks a question, how it scores answers, what else it reports."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from owl.config.run import MetricKind
from owl.errors import OwlError
from owl.evaluate import choice
from owl.evaluate.captions import cider
from owl.evaluate.questions import PROBLEMS_SHOWN, Question
from owl.evaluate.vqa import vqa_accuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question that has references, with its answer."""

    question: Question
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """How a kind of benchmark is asked and scored."""

    title: str  # of its mean score, in tables
    suffix: str  # below the question
    max_new_tokens: int
    scores: Callable[[Sequence[Asked]], list[float]]  # one an answer; a mean of 1 reads as 100
    default_question: str = ""
    problem: Callable[[Question], str | None] = lambda question: None
    figures: Callable[[Sequence[Asked]], Mapping[str, float]] = lambda asked: {}

    def problem_of(self, question: Question) -> str | None:
        """Return why a question cannot be asked or scored, None if it can."""
        if not question.text and not self.default_question:
            return "has no text"
        return self.problem(question)

    def check(self, questions: Sequence[Question]) -> None:
        """Raise OwlError that names questions which cannot be asked or scored."""
        found = [(question.id, self.problem_of(question)) for question in questions]
        problems = [f"question {name} {problem}" for name, problem in found if problem]
        if problems:
            left = len(problems) - PROBLEMS_SHOWN
            more = [f"and {left} more"] if left > 0 else []
            raise OwlError("\n".join([*problems[:PROBLEMS_SHOWN], *more]))

    def ask(self, question: Question, suffix: str | None = None) -> str:
        """Return the text of a question.

        Args:
            question: with or without text of its own.
            suffix: in place of the metric's; "" for none.
        """
        text = question.text or self.default_question
        if question.options:
            text = choice.with_options(text, question.options)
        below = self.suffix if suffix is None else suffix
        return text if not below or text.endswith(below) else f"{text}\n{below}"


def _each(score: Callable[[str, Question], float]) -> Callable[[Sequence[Asked]], list[float]]:
    return lambda asked: [score(one.answer, one.question) for one in asked]


def _exact(answer: str, question: Question) -> float:
    return float(_bare(answer) in map(_bare, question.answers))


def _bare(text: str) -> str:
    """Ignore case, space around and between words, and a period at the end."""
    return " ".join(text.casefold().split()).removesuffix(".")


def _chosen(answer: str, question: Question) -> float:
    right = choice.right_option(question.answers[0], question.options)
    return float(choice.chosen_option(answer, question.options) == right)


def _choice_problem(question: Question) -> str | None:
    if len(question.options) < 2:
        return "has no options"
    if question.answers and choice.right_option(question.answers[0], question.options) is None:
        return f"answer={question.answers[0]!r} is neither an option's text nor its letter"
    return None


def said_yes(text: str) -> bool | None:
    """Return whether the first yes or no of a text is yes; None without either."""
    found = re.search(r"\b(yes|no)\b", text.lower())
    return found[1] == "yes" if found else None


def _yes_no(answer: str, question: Question) -> float:
    return float(said_yes(answer) == said_yes(question.answers[0]))


def _yes_no_problem(question: Question) -> str | None:
    if question.answers and said_yes(question.answers[0]) is None:
        return f"answer={question.answers[0]!r} is neither yes nor no"
    return None


def _pair_figures(asked: Sequence[Asked]) -> Iterator[tuple[str, float]]:
    """Yield MME's accuracy+, the share of pairs of which both are right, and its score."""
    pairs: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for one in asked:
        is_right = _yes_no(one.answer, one.question) == 1.0
        pairs[one.question.category, one.question.pair].append(is_right)
    total = 0.0
    for category in dict.fromkeys(category for category, _ in pairs):
        of_it = [right for (name, _), right in pairs.items() if name == category]
        answers = [right for pair in of_it for right in pair]
        plus = sum(map(all, of_it)) / len(of_it)
        total += 100 * (sum(answers) / len(answers) + plus)
    yield "accuracy+", 100 * sum(map(all, pairs.values())) / len(pairs)
    yield "score (accuracy and accuracy+, summed over categories)", total
    positive = [said_yes(one.answer) is True for one in asked]
    yield "answered yes", 100 * sum(positive) / len(positive)


METRICS: Mapping[MetricKind, Metric] = {
    MetricKind.vqa: Metric(
        title="VQA accuracy",
        suffix="Answer the question using a single word or phrase.",
        max_new_tokens=10,
        scores=_each(lambda answer, question: vqa_accuracy(answer, question.answers)),
    ),
    MetricKind.exact: Metric(
        title="exact match", suffix="", max_new_tokens=32, scores=_each(_exact)
    ),
    MetricKind.choice: Metric(
        title="accuracy",
        suffix=choice.SUFFIX,
        max_new_tokens=10,
        scores=_each(_chosen),
        problem=_choice_problem,
    ),
    MetricKind.caption: Metric(
        title="CIDEr-D",
        suffix="",
        max_new_tokens=60,
        default_question="Provide a one-sentence caption for the provided image.",
        scores=lambda asked: cider(
            [one.answer for one in asked], [one.question.answers for one in asked]
        ),
    ),
    MetricKind.yesno: Metric(
        title="accuracy",
        suffix="",
        max_new_tokens=10,
        scores=_each(_yes_no),
        problem=_yes_no_problem,
        figures=lambda asked: dict(_pair_figures(asked)) if asked else {},
    ),
}
