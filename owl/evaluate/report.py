# SPDX-License-Identifier: Apache-2.0
"""What an evaluation found: the mean score with its interval, by category, and what failed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from owl.evaluate.intervals import interval
from owl.evaluate.job import answered
from owl.evaluate.metrics import Metric
from owl.evaluate.predictions import Prediction
from owl.evaluate.questions import Question

ALL = "all"


def results_of(
    questions: Sequence[Question], predictions: Sequence[Prediction], metric: Metric
) -> dict[str, Any]:
    """Summarise. Scores are times 100; a question with an error counts as answered wrongly.

    Returns:
        For results.json: counts, `scores` by category, and the metric's further `figures`.
    """
    asked = answered(questions, predictions)
    scores = metric.scores(asked)
    failed = [prediction for prediction in predictions if prediction.error is not None]
    of_category: dict[str, list[float]] = {ALL: scores}
    if len({one.question.category for one in asked}) > 1:
        for one, score in zip(asked, scores, strict=True):
            of_category.setdefault(one.question.category or "none", []).append(score)
    return {
        "metric": metric.title,
        "questions": len(questions),
        "scored": len(asked),
        "failed": len(failed),
        "errors": {prediction.id: prediction.error for prediction in failed},
        "scores": {name: _score(values) for name, values in of_category.items() if values},
        "figures": dict(metric.figures(asked)),
    }


def _score(scores: Sequence[float]) -> dict[str, float]:
    low, high = interval(scores)
    mean = sum(scores) / len(scores)
    return {"questions": len(scores), "score": 100 * mean, "low": 100 * low, "high": 100 * high}


def table(results: Mapping[str, Any]) -> str:
    """Draw the results as text."""
    return "\n".join(_lines(results))


def _lines(results: Mapping[str, Any]) -> Iterator[str]:
    if results["scores"]:
        width = max(len(name) for name in [*results["scores"], *results["figures"], "category"]) + 2
        yield f"{'category':<{width}}{'questions':>10}  {results['metric']:>12}  95 % interval"
        for name, score in results["scores"].items():
            between = f"{score['low']:.1f} to {score['high']:.1f}"
            yield f"{name:<{width}}{score['questions']:>10}  {score['score']:>12.1f}  {between}"
        for name, figure in results["figures"].items():
            yield f"{name:<{width}}{'':>10}  {figure:>12.1f}"
    unscored = results["questions"] - results["scored"]
    if unscored:
        yield f"{unscored} of {results['questions']} questions have no reference answer: not scored"
    if results["failed"]:
        name, error = next(iter(results["errors"].items()))
        yield (
            f"{results['failed']} of {results['questions']} questions could not be asked and count "
            f"as wrong; the first one, {name}: {error}"
        )
