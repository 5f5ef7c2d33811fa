# SPDX-License-Identifier: Apache-2.0
"""Ask a model the questions of a jsonl file, and score its answers.

owl evaluate --model DIR --data questions.jsonl --metric vqa
torchrun --nproc-per-node 8 --no-python owl evaluate --checkpoint RUN --data questions.jsonl ...

A line of the file: {"id": "7", "image": "a.jpg", "question": "What is it?", "answers": ["an owl"]}
(also images, options, category, pair: docs/evaluation.md). The same command goes on where a stopped
one was.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from owl.config.run import MetricKind
from owl.errors import OwlError

METRICS_HELP = """metrics:
vqa: VQA accuracy, normalised, of ten annotators (fewer: any of them);
exact: the reference, but for case and a last period;
choice: the letter of an option;
caption: CIDEr-D;
yesno: MME's pairs, accuracy and accuracy+"""


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate as the command line says; exits with 1 and one line on errors."""
    parser = _parser()
    options = parser.parse_args(argv)
    if (options.model is None) == (options.checkpoint is None):
        parser.error("name one of --model DIR and --checkpoint RUN")
    try:
        evaluate(options)
    except OwlError as error:
        sys.exit(f"{type(error).__name__}: {error}")


def evaluate(options: argparse.Namespace) -> None:
    """Answer what is left to answer, then print and write the results."""
    from owl.command.answerers import answerer_of
    from owl.evaluate.job import answer_all, batches_of
    from owl.evaluate.metrics import METRICS
    from owl.evaluate.predictions import PredictionFolder
    from owl.evaluate.questions import read_questions
    from owl.evaluate.report import results_of, table
    from owl.progress import Progress

    metric = METRICS[options.metric]
    questions = read_questions(options.data, options.images)[: options.limit]
    metric.check(questions)
    longest = options.max_new_tokens or metric.max_new_tokens
    output = options.output or Path("evaluations") / f"{_model_name(options)}-{options.data.stem}"
    settings = _settings(options, longest)
    with answerer_of(options, longest) as (answer, ranks):
        folder = None
        if ranks.rank == 0:
            folder = PredictionFolder(output, settings, replace=options.replace)
        known = ranks.gather([line.id for line in folder.read()] if folder else [])[0]
        left = [
            [question for question in batch if question.id not in known]
            for batch in batches_of(questions, options.batch_size)
        ]
        progress = Progress("evaluate", len(questions), unit=" questions") if folder else None
        if progress:
            progress.skip(len(known))
        for lines in answer_all(
            [batch for batch in left if batch],
            answer,
            lambda question: metric.ask(question, options.suffix),
            ranks,
        ):
            if folder and progress:
                folder.append(lines)
                progress.advance(len(lines))
    if folder and progress:
        progress.finish()
        results = results_of(questions, folder.read(), metric)
        folder.write_results({**results, "settings": settings})
        print(json.dumps(results) if options.json else table(results))
        if not options.json:
            print(f"answers and results are in {folder.path}")
        if results["failed"] == len(questions):
            raise OwlError("no question could be asked: see above")


def _model_name(options: argparse.Namespace) -> str:
    return str((options.model or options.checkpoint).resolve().name)


def _settings(options: argparse.Namespace, longest: int) -> dict[str, Any]:
    """Return what answers depend on."""
    data = options.data / "questions.jsonl" if options.data.is_dir() else options.data
    return {
        "model": str((options.model or options.checkpoint).resolve()),
        "data": str(data),
        "data_sha256": hashlib.sha256(data.read_bytes()).hexdigest(),
        "limit": options.limit,
        "metric": str(options.metric),
        "suffix": options.suffix,
        "max_new_tokens": longest,
        "cut": options.cut,
        "batch_size": options.batch_size,
        "dtype": options.dtype,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="owl evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    model = parser.add_argument_group("what answers (one of)")
    model.add_argument("--model", type=Path, metavar="DIR", help="published or exported folder")
    model.add_argument(
        "--checkpoint", type=Path, metavar="RUN", help="checkpoint or run folder of a training run"
    )
    model.add_argument(
        "--tokenizer", type=Path, metavar="DIR",
        help="with --checkpoint: the tokenizer (default: that of the run)",
    )  # fmt: skip
    data = parser.add_argument_group("what is asked")
    data.add_argument(
        "--data", type=Path, required=True, metavar="FILE",
        help="jsonl file, or a folder with questions.jsonl",
    )  # fmt: skip
    data.add_argument(
        "--images", type=Path, metavar="DIR",
        help="where the pictures are (default: beside the file, or in images/ beside it)",
    )  # fmt: skip
    data.add_argument(
        "--metric", type=MetricKind, choices=list(MetricKind), default=MetricKind.exact,
        help="how answers are scored (default exact); see below",
    )  # fmt: skip
    data.add_argument("--limit", type=int, metavar="N", help="the first N questions only")
    data.add_argument(
        "--suffix", metavar="TEXT",
        help='text below each question (default: the metric\'s, "" for none)',
    )  # fmt: skip
    answers = parser.add_argument_group("how it answers")
    answers.add_argument("--max-new-tokens", type=int, metavar="N", help="default: the metric's")
    answers.add_argument("--batch-size", type=int, default=16, metavar="N", help="default 16")
    answers.add_argument("--cut", action="store_true", help="cut single pictures into tiles")
    answers.add_argument("--device", help="cpu or cuda (default: a GPU if there is one)")
    answers.add_argument(
        "--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"),
        help="default: the weights', or bfloat16 on a GPU and float32 on a CPU for a checkpoint",
    )  # fmt: skip
    result = parser.add_argument_group("what it writes")
    result.add_argument(
        "--output", type=Path, metavar="DIR", help="default: evaluations/MODEL-DATA"
    )
    result.add_argument("--replace", action="store_true", help="discard earlier answers there")
    result.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.epilog = METRICS_HELP
    return parser


if __name__ == "__main__":
    main()
