# SPDX-License-Identifier: Apache-2.0
"""Ask a model about held-out pictures, and store every answer."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from owl.checkpoint.inference import LoadedModel
from owl.data.families import reading_of
from owl.data.samples import RawSample
from owl.demo.digits import HELD_OUT, load_digits
from owl.demo.questions import QUESTION_KINDS, Question, build_questions, question_sample
from owl.demo.text import open_encoder
from owl.evaluate.greedy import Answerer, answerer, likeliest_of

MAX_ANSWER_TOKENS = 4
PREDICTIONS_FILE = "predictions.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One line of predictions.jsonl. Indices count as scikit-learn's load_digits does."""

    stage: str  # start, stage1, stage2 or exported
    kind: str  # single, several, finding or swapped
    question: str
    indices: list[int]  # pictures shown, in order
    asked_of: list[int]  # pictures that the truth is about; other ones only where kind is swapped
    truth: str
    answer: str

    @property
    def is_right(self) -> bool:
        """Whether the answer equals the truth, letter for letter."""
        return self.answer == self.truth


def answer_held_out(stage: str, answer: Answerer) -> list[Prediction]:
    """Ask every question about the held-out pictures.

    Args:
        stage: name of the evaluated model, for the records.
        answer: the model.
    """
    questions, samples = held_out_questions()
    answers = answer(samples)
    first = HELD_OUT.start
    return [
        Prediction(
            stage=stage,
            kind=question.kind,
            question=question.text,
            indices=[first + row for row in question.shown],
            asked_of=[first + row for row in question.asked_of],
            truth=question.truth,
            answer=answer,
        )
        for question, answer in zip(questions, answers, strict=True)
    ]


def held_out_questions() -> tuple[list[Question], list[RawSample]]:
    """Write every question about the held-out pictures, and the sample that asks it."""
    digits = load_digits(HELD_OUT)
    questions = build_questions(digits.labels.tolist())
    samples = [
        question_sample(number, question, digits) for number, question in enumerate(questions)
    ]
    return questions, samples


def answerer_of(model: LoadedModel, tokenizer: Path) -> Answerer:
    """Return an Answerer that uses the training model.

    Args:
        model: complete, in this process.
        tokenizer: folder of the demo's tokenizer.
    """
    encoder = open_encoder(tokenizer, reading_of(model.config))
    return answerer(encoder, likeliest_of(model.logits), max_tokens=MAX_ANSWER_TOKENS)


def accuracy(predictions: Sequence[Prediction]) -> dict[str, float]:
    """Return the share of right answers of each kind."""
    return {
        kind: _share_right([asked for asked in predictions if asked.kind == kind])
        for kind in QUESTION_KINDS
    }


def save_predictions(run: Path, predictions: Sequence[Prediction]) -> None:
    """Write a stage's predictions into the run folder, replacing its earlier ones."""
    stages = {prediction.stage for prediction in predictions}
    kept = [known for known in load_predictions(run) if known.stage not in stages]
    lines = [json.dumps(asdict(prediction)) + "\n" for prediction in [*kept, *predictions]]
    run.mkdir(parents=True, exist_ok=True)
    (run / PREDICTIONS_FILE).write_text("".join(lines))


def load_predictions(run: Path) -> list[Prediction]:
    """Read predictions.jsonl; empty when there is none."""
    path = run / PREDICTIONS_FILE
    if not path.is_file():
        return []
    return [Prediction(**json.loads(line)) for line in path.read_text().splitlines()]


def _share_right(predictions: Sequence[Prediction]) -> float:
    return sum(prediction.is_right for prediction in predictions) / max(1, len(predictions))
