# SPDX-License-Identifier: Apache-2.0
"""Ask a model about held-out pictures, and store every answer."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from owl.checkpoint.inference import LoadedModel
from owl.data.collate import collate
from owl.data.encode.tokenizer import Tokenizer
from owl.data.families import reading_of
from owl.data.samples import EncodedSample, PackedBatch, RawSample
from owl.demo.digits import HELD_OUT, load_digits
from owl.demo.questions import QUESTION_KINDS, Question, build_questions, question_sample
from owl.demo.text import open_encoder

PROMPTS_PER_PACK = 60
MAX_ANSWER_TOKENS = 4
PREDICTIONS_FILE = "predictions.jsonl"

Item = TypeVar("Item")

Logits = Callable[[PackedBatch], Tensor]
"""A pack to logits [t, v] of the token after each token."""
Answerer = Callable[[Sequence[RawSample]], list[str]]
"""Questions, with their pictures, to answers in the same order."""


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

    def answer(samples: Sequence[RawSample]) -> list[str]:
        prompts = [encoder.encode_prompt(sample) for sample in samples]
        return decode_greedily(prompts, model.logits, encoder.tokenizer)

    return answer


def decode_greedily(
    prompts: Sequence[EncodedSample],
    logits: Logits,
    tokenizer: Tokenizer,
    *,
    max_tokens: int = MAX_ANSWER_TOKENS,
) -> list[str]:
    """Continue each prompt with its likeliest tokens until the turn ends.

    Many prompts share a pack, and each new token costs a pass over all of it: with answers of one
    word that is fast enough without a cache of keys.

    Args:
        prompts: encoded up to the answer.
        logits: the model.
        tokenizer: decodes the answers; its control tokens end an answer.
        max_tokens: longest answer.

    Returns:
        Answers, in the order of the prompts.
    """
    ends = set(tokenizer.control_ids.values())
    written: list[list[int]] = [[] for _ in prompts]
    unfinished = list(range(len(prompts)))
    for _ in range(max_tokens):
        chosen: list[int] = []
        for some in in_groups(unfinished, PROMPTS_PER_PACK):
            grown = [_extend(prompts[number], written[number]) for number in some]
            batch = collate(grown)
            chosen += likeliest_next(batch, logits)
        for number, token in zip(unfinished, chosen, strict=True):
            written[number].append(token)
        unfinished = [number for number in unfinished if written[number][-1] not in ends]
    return [tokenizer.decode(tokens) for tokens in written]


def likeliest_next(batch: PackedBatch, logits: Logits) -> list[int]:
    """Return the likeliest token after the last one of each sample: n ids."""
    last_rows = batch.cu_seqlens[1:].long() - 1
    best: list[int] = logits(batch)[last_rows].argmax(dim=-1).tolist()
    return best


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


def _extend(prompt: EncodedSample, tokens: list[int]) -> EncodedSample:
    more = torch.tensor(tokens, dtype=prompt.tokens.dtype)
    following = prompt.positions[..., -1:] + torch.arange(1, len(tokens) + 1)
    return replace(
        prompt,
        tokens=torch.cat([prompt.tokens, more]),
        loss_weights=torch.cat([prompt.loss_weights, torch.zeros(len(tokens))]),
        positions=torch.cat([prompt.positions, following], dim=-1),
    )


def in_groups(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Split a sequence into parts of `size`; the last may be shorter."""
    for first, end in pairwise([*range(0, len(items), size), len(items)]):
        yield items[first:end]


def _share_right(predictions: Sequence[Prediction]) -> float:
    return sum(prediction.is_right for prediction in predictions) / max(1, len(predictions))
