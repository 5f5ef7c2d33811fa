# SPDX-License-Identifier: Apache-2.0
"""The demo's results: a table, summary.json, and a check against what is expected."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from owl.demo.evaluate import PREDICTIONS_FILE, Prediction, accuracy
from owl.demo.questions import QUESTION_KINDS

STAGES = ("start", "stage1", "stage2", "exported")
TRAINED = "stage2"
"""The stage whose model is exported."""
HEADINGS = {stage: stage for stage in STAGES} | {"exported": "owl.hf"}
SUMMARY_FILE = "summary.json"

Accuracy = Mapping[str, Mapping[str, float]]
"""Stage -> kind of question -> share of right answers."""

AT_LEAST = {("stage1", "single"): 0.75, ("stage2", "single"): 0.85, ("stage2", "several"): 0.80}
AT_MOST = {("start", "single"): 0.20, **{(stage, "swapped"): 0.20 for stage in STAGES}}
LOGITS_AT_MOST = 1e-5
"""Largest difference in logits between the trainer and owl.hf, both in float64."""

EXPLANATIONS = {
    "single": "one picture: What is this digit?",
    "several": "three pictures: What is the second digit?",
    "finding": "three pictures: Which picture shows a seven?",
    "swapped": "as single, but with another question's picture",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The content of summary.json. Accuracies are fractions."""

    accuracy: Accuracy
    finding_chance: float  # accuracy of naming a random one of the pictures shown
    questions: Mapping[str, int]  # of each kind, per stage
    frozen_tensors_changed: int  # by stage 1; anything but 0 is a bug
    answers_changed_by_export: int  # of all questions; anything but 0 is a bug
    logit_differences: Mapping[str, float]  # of trainer and owl.hf, on packed and single inputs
    seconds: float  # that the demo took


def summarise(
    predictions: Sequence[Prediction],
    *,
    frozen_tensors_changed: int,
    logit_differences: Mapping[str, float],
    seconds: float,
) -> Summary:
    """Compute the figures from the predictions, and add the measured ones."""
    by_stage = {stage: [asked for asked in predictions if asked.stage == stage] for stage in STAGES}
    last = by_stage[TRAINED]
    finding = [asked for asked in last if asked.kind == "finding"]
    return Summary(
        accuracy={stage: accuracy(asked) for stage, asked in by_stage.items()},
        finding_chance=sum(1 / len(asked.indices) for asked in finding) / max(1, len(finding)),
        questions={kind: sum(asked.kind == kind for asked in last) for kind in QUESTION_KINDS},
        frozen_tensors_changed=frozen_tensors_changed,
        answers_changed_by_export=sum(
            before.answer != after.answer
            for before, after in zip(last, by_stage["exported"], strict=True)
        ),
        logit_differences=logit_differences,
        seconds=seconds,
    )


def save_summary(run: Path, summary: Summary) -> None:
    """Write summary.json into the run folder."""
    (run / SUMMARY_FILE).write_text(json.dumps(asdict(summary), indent=2) + "\n")


def accuracy_table(summary: Summary) -> str:
    """Format the table that the demo ends with, in percent of held-out questions."""
    lines = [f"{'held-out accuracy':<20}" + "".join(f"{HEADINGS[stage]:>9}" for stage in STAGES)]
    for kind in QUESTION_KINDS:
        cells = "".join(f"{summary.accuracy[stage][kind]:>9.1%}" for stage in STAGES)
        chance = f" (chance {summary.finding_chance:.0%})" if kind == "finding" else ""
        lines.append(f"  {kind:<18}{cells}   {EXPLANATIONS[kind]}{chance}")
    return "\n".join(lines)


def unexpected_results(summary: Summary) -> Iterator[str]:
    """Yield a sentence for each figure outside its expected range."""
    for (stage, kind), least in AT_LEAST.items():
        reached = summary.accuracy[stage][kind]
        if reached < least:
            yield f"{kind} after {stage} is {reached:.1%}, expected at least {least:.0%}"
    for (stage, kind), most in AT_MOST.items():
        reached = summary.accuracy[stage][kind]
        if reached > most:
            yield f"{kind} at {stage} is {reached:.1%}, expected at most {most:.0%}"
    if summary.frozen_tensors_changed:
        yield f"stage 1 changed {summary.frozen_tensors_changed} tensors that were frozen"
    if summary.answers_changed_by_export:
        yield f"{summary.answers_changed_by_export} answers of owl.hf are not the trainer's"
    for inputs, difference in summary.logit_differences.items():
        if not difference <= LOGITS_AT_MOST:
            yield (
                f"logits of owl.hf and the trainer differ by {difference:.1e} on {inputs} inputs, "
                f"expected at most {LOGITS_AT_MOST:.0e}"
            )


def final_report(run: Path, summary: Summary, changed: Sequence[str]) -> str:
    """Format the results, where they are stored, and what to try next."""
    frozen = (
        "every tensor that stage 1 froze is bit-identical to the start"
        if not changed
        else f"stage 1 CHANGED {len(changed)} frozen tensors: {', '.join(changed)}"
    )
    return "\n".join(
        [
            "",
            accuracy_table(summary),
            "",
            f"Frozen weights: {frozen}.",
            f"The exported folder: {_agreement(summary)}.",
            f"Time: {summary.seconds / 60:.1f} minutes.",
            "",
            "Look at",
            f"  {run / 'held_out.png'}   held-out pictures, with question, answer, truth",
            f"  {run / 'losses.png'}     loss of both stages",
            f"  {run / PREDICTIONS_FILE}   every answer behind the table",
            f"  {run / SUMMARY_FILE}",
            f"  {run / 'exported'}/       the trained model, as transformers loads it",
            "",
            "Next",
            f"  talk with it:       python -m owl.chat --model {run / 'exported'} --no-cut"
            f" --image {run / 'held_out_digit.png'}",
            "  read a stage's own log and settings: "
            f"{run / 'stage1'}/metrics.jsonl, {run / 'stage1'}/config.yaml",
            "  change something:   torchrun --nproc-per-node 2 pretrain_owl3.py +experiment=stage1"
            " parallel=tp2 optim.learning_rate=1e-3 output=runs/mine",
            "  see every setting:  python pretrain_owl3.py --help",
            "  train a real one:   README.md, 'The real run'",
        ]
    )


def _agreement(summary: Summary) -> str:
    """Format how close owl.hf is to the trainer."""
    same = sum(summary.questions.values()) - summary.answers_changed_by_export
    logits = ", ".join(
        f"{difference:.1e} on {inputs} inputs"
        for inputs, difference in summary.logit_differences.items()
    )
    return (
        f"owl.hf gives the trainer's answer to {same:,} of {sum(summary.questions.values()):,} "
        f"questions; in float64 logits differ by at most {logits}"
    )
