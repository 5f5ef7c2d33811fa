# SPDX-License-Identifier: Apache-2.0
"""Evaluate during training: the loss of held-out samples, and answers to questions."""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from owl.checkpoint.state import TrainState
from owl.config.run import RunConfig
from owl.data.encode.encoder import SampleEncoder
from owl.data.encode.tokenizer import load_tokenizer
from owl.data.families import reading_of
from owl.data.held_out import HeldOut, open_held_out
from owl.data.samples import StepBatch
from owl.evaluate.greedy import answerer
from owl.evaluate.job import answer_all, batches_of, ranks_of
from owl.evaluate.metrics import METRICS
from owl.evaluate.predictions import PredictionFolder
from owl.evaluate.questions import Question, read_questions
from owl.evaluate.report import ALL, results_of
from owl.evaluate.trained import evaluating, likeliest_tokens, mean_loss
from owl.logging import logger
from owl.mcore.process_groups import ProcessGroups
from owl.train.loop import Hook, StepReport
from owl.train.skip_sync import broadcast_skips


class EvaluateHook(Hook):
    """Evaluates every so many steps and after the last, at the same steps on every rank.

    `values` holds what it found in the current step, for the metrics writers.

    Args:
        run: its settings.
        chunks: this rank's model, wrapped for training.
        groups: Megatron's process groups.

    Raises:
        OwlError: held-out data or questions cannot be read.
    """

    def __init__(self, run: RunConfig, chunks: list[nn.Module], groups: ProcessGroups) -> None:
        self.run, self.chunks, self.groups = run, chunks, groups
        self.values: Mapping[str, float] = {}
        self.held_out: Mapping[str, HeldOut] = open_held_out(
            run,
            dp_rank=groups.dp_rank,
            dp_size=groups.dp_size,
            read_pixels=groups.is_first_stage,
            share_skips=partial(broadcast_skips, groups=groups) if groups.pp_size > 1 else None,
        )
        self.metric = METRICS[run.evaluate.metric]
        self.questions: Sequence[Question] = []
        if run.evaluate.questions:
            asked = read_questions(Path(run.evaluate.questions))
            self.questions = evenly_spaced(asked, run.evaluate.max_questions)
            self.metric.check(self.questions)
        if self.held_out or self.questions:
            logger.info("evaluate %s", self.summary)

    @property
    def summary(self) -> str:
        """What is evaluated, and when."""
        parts = [f"the loss of {one.samples} samples of {n}" for n, one in self.held_out.items()]
        if self.questions:
            parts.append(f"{len(self.questions)} questions by {self.metric.title}")
        return f"every {self.run.evaluate.every_steps} steps: {', '.join(parts)}"

    def after_step(self, state: TrainState, report: StepReport, batch: StepBatch) -> None:
        """Evaluate if this is a step to evaluate at."""
        self.values = {}
        is_last = state.step == self.run.stage.train_steps
        if not is_last and state.step % self.run.evaluate.every_steps:
            return
        if not self.held_out and not self.questions:
            return
        begin = time.perf_counter()
        with evaluating(self.chunks):
            self.values = dict([*self._losses(), *self._answers(state.step)])
        found = [
            f"{name.removeprefix('evaluate/')} {value:.4g}"
            for name, value in self.values.items()
            if not name.endswith(("_low", "_high"))
        ]
        seconds = time.perf_counter() - begin
        logger.info("evaluate %d | %s | %.2f s", state.step, " | ".join(found), seconds)

    def _losses(self) -> Iterator[tuple[str, float]]:
        # The interleaved schedule takes micro-batches in groups of its stages.
        each = self.groups.pp_size
        for name, held_out in self.held_out.items():
            loss = mean_loss(self.chunks, held_out.rounds(each), self.groups)
            yield f"evaluate/loss/{name}", loss

    def _answers(self, step: int) -> Iterator[tuple[str, float]]:
        """Answer the questions, and write the answers to RUN/evaluate/step_N."""
        if not self.questions:
            return
        reading = reading_of(self.run.model)
        tokenizer = load_tokenizer(self.run.data.tokenizer, reading.controls)
        answer = answerer(
            SampleEncoder(tokenizer, reading, images=self.run.data.images),
            lambda batch: likeliest_tokens(self.chunks, batch, self.groups),
            max_tokens=self.metric.max_new_tokens,
        )
        batches = batches_of(self.questions, self.run.evaluate.batch_size)
        ranks = ranks_of(self.groups.collection.dp)
        found = answer_all(batches, answer, self.metric.ask, ranks)
        predictions = [one for some in found for one in some]
        results = results_of(self.questions, predictions, self.metric)
        if self.groups.is_writer:
            path = Path(self.run.output) / "evaluate" / f"step_{step:08d}"
            folder = PredictionFolder(path, {"step": step}, replace=True)
            folder.append(predictions)
            folder.write_results(results)
        yield from _figures(str(self.run.evaluate.metric), results)


def evenly_spaced(questions: Sequence[Question], count: int) -> list[Question]:
    """Choose so many questions, from all parts of the file."""
    count = min(count, len(questions))
    return [questions[place * len(questions) // count] for place in range(count)]


def _figures(metric: str, results: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    if results["scores"]:
        yield f"evaluate/{metric}", results["scores"][ALL]["score"]
        yield f"evaluate/{metric}_low", results["scores"][ALL]["low"]
        yield f"evaluate/{metric}_high", results["scores"][ALL]["high"]
    yield "evaluate/failed", results["failed"]
