# SPDX-License-Identifier: Apache-2.0
"""The embedded demo, step by step; `scripts/quickstart.sh` runs all of it.

owl demo prepare                       # --family NAME: another family's
owl demo evaluate --stage stage1 --checkpoint runs/quickstart/stage1 --run runs/quickstart
owl demo picture --output runs/quickstart/held_out_digit.png
owl demo report --run runs/quickstart
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from owl.config.run import FamilyKind
from owl.errors import CheckpointError, OwlError

if TYPE_CHECKING:
    from owl.evaluate.greedy import Answerer

QUESTIONS_COMPARED = 40
"""Number of held-out questions whose logits are compared."""


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and run one step."""
    options = _parser().parse_args(argv)
    from owl.mcore.cpu import hide_gpus  # imports torch, which --help can do without

    hide_gpus()  # so that the answers are the same on every machine
    try:
        options.command(options)
    except OwlError as error:
        sys.exit(f"{type(error).__name__}: {error}")


def _data(options: argparse.Namespace) -> Path:
    """The folder of data and start weights, as the experiments of the family name it."""
    if options.data is not None:
        return Path(options.data)
    return Path("demo_data", *([] if options.family == FamilyKind.owl3 else [options.family]))


def prepare(options: argparse.Namespace) -> None:
    """Make data and start weights."""
    from owl.demo.prepare import prepare_demo

    prepare_demo(_data(options), FamilyKind(options.family))


def evaluate(options: argparse.Namespace) -> None:
    """Answer the held-out questions with one checkpoint, or with an exported folder."""
    from owl.demo.evaluate import accuracy, answer_held_out, save_predictions

    with _answerer(options) as answer:
        predictions = answer_held_out(options.stage, answer)
    save_predictions(options.run, predictions)
    shares = "  ".join(f"{kind} {share:.1%}" for kind, share in accuracy(predictions).items())
    print(f"{options.stage}: {shares}")


@contextmanager
def _answerer(options: argparse.Namespace) -> "Iterator[Answerer]":
    if options.stage == "exported":
        from owl.demo.exported import Exported, answerer_of_exported  # transformers is an extra

        yield answerer_of_exported(Exported.load(options.checkpoint))
        return
    from owl.checkpoint.inference import loaded_model
    from owl.config.run import DeviceKind
    from owl.demo.evaluate import answerer_of

    # The demo's model is too small for a GPU to be faster.
    with loaded_model(options.checkpoint, device=DeviceKind.cpu) as model:
        yield answerer_of(model, _data(options) / "tokenizer")


def picture(options: argparse.Namespace) -> None:
    """Save a held-out picture as a file."""
    from owl.demo.digits import HELD_OUT, WORDS, load_digits, png_bytes

    digits = load_digits(HELD_OUT)
    row = options.index - HELD_OUT.start
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_bytes(png_bytes(digits.pictures[row]))
    print(
        f"{options.output}: digit {options.index} of scikit-learn's set, a "
        f"{WORDS[digits.labels[row]]} that was not trained on"
    )


def report(options: argparse.Namespace) -> None:
    """Write summary and pictures, print the table; exit with status 1 if a figure is off."""
    from owl.config.run import Trainable
    from owl.demo.checkpoints import frozen_tensors_changed
    from owl.demo.evaluate import load_predictions
    from owl.demo.plots import plot_answers, plot_losses
    from owl.demo.report import (
        STAGES,
        TRAINED,
        final_report,
        save_summary,
        summarise,
        unexpected_results,
    )

    run: Path = options.run
    predictions = load_predictions(run)
    missing = [stage for stage in STAGES if stage not in {asked.stage for asked in predictions}]
    if missing:
        raise CheckpointError(
            f"{run} has no answers of {', '.join(missing)} yet. "
            f"Run python -m owl.demo evaluate --stage {missing[0]} --run {run} first."
        )
    changed = frozen_tensors_changed(_data(options) / "start", run / "stage1", Trainable())
    summary = summarise(
        predictions,
        frozen_tensors_changed=len(changed),
        logit_differences=_logit_differences(run, _data(options) / "tokenizer"),
        seconds=options.seconds,
    )
    save_summary(run, summary)
    plot_losses(run / "losses.png", _loss_curves(run))
    plot_answers(run / "held_out.png", [a for a in predictions if a.stage == TRAINED])
    print(final_report(run, summary, changed))
    problems = list(unexpected_results(summary))
    if problems:
        sys.exit("Not as expected: " + "; ".join(problems) + ".")


def _logit_differences(run: Path, tokenizer: Path) -> dict[str, float]:
    """Compare the trainer and owl.hf on a few questions of each kind.

    In float64: in float32 rounding alone differs by up to 1e-5 on this model, which would hide an
    error of that size.
    """
    import torch

    from owl.checkpoint.inference import loaded_model
    from owl.config.run import DeviceKind, Precision
    from owl.demo.evaluate import held_out_questions
    from owl.demo.exported import Exported, logit_differences
    from owl.demo.report import TRAINED

    _, samples = held_out_questions()
    some = samples[:: len(samples) // QUESTIONS_COMPARED]
    exported = Exported.load(run / "exported", torch.float64)
    with loaded_model(run / TRAINED, Precision.fp64, DeviceKind.cpu) as trained:
        return logit_differences(trained, exported, some, tokenizer)


def _loss_curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    from owl.train.metrics_writers import METRICS_FILE, read_metrics

    titles = {
        "stage1": "Stage 1: projector, media keys and values, gates",
        "stage2": "Stage 2: all but the vision tower",
    }
    return {
        title: [
            (line["step"], line["loss"])
            for line in read_metrics(run / stage / METRICS_FILE)
            if line["loss"] is not None
        ]
        for stage, title in titles.items()
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="owl demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--family", default=FamilyKind.owl3, choices=[str(kind) for kind in FamilyKind],
        help="whose demo (default: owl3)",
    )  # fmt: skip
    common.add_argument(
        "--data", type=Path, metavar="DIR",
        help="folder of data and start weights (default: demo_data; demo_data/FAMILY of others)",
    )  # fmt: skip
    run = argparse.ArgumentParser(add_help=False)
    run.add_argument(
        "--run", type=Path, default=Path("runs/quickstart"), metavar="DIR",
        help="folder of results, with stage1/ and stage2/ in it (default: runs/quickstart)",
    )  # fmt: skip
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    one = commands.add_parser("prepare", parents=[common], help="make data and start weights, once")
    one.set_defaults(command=prepare)

    one = commands.add_parser(
        "evaluate", parents=[common, run], help="ask a checkpoint about held-out pictures"
    )
    one.add_argument("--stage", required=True, choices=["start", "stage1", "stage2", "exported"])
    one.add_argument(
        "--checkpoint", type=Path, required=True, metavar="DIR",
        help="a checkpoint or run folder; of the stage exported, a folder for transformers",
    )  # fmt: skip
    one.set_defaults(command=evaluate)

    one = commands.add_parser("picture", help="save a held-out picture, to ask owl.chat about it")
    one.add_argument(
        "--index", type=int, default=1437, choices=range(1437, 1797), metavar="N",
        help="in scikit-learn's set, 1437 to 1796 (default: the first held out)",
    )  # fmt: skip
    one.add_argument("--output", type=Path, required=True, metavar="FILE")
    one.set_defaults(command=picture)

    one = commands.add_parser(
        "report", parents=[common, run], help="table, summary.json and pictures of a finished run"
    )
    one.add_argument("--seconds", type=float, default=0.0, help="how long the demo took")
    one.set_defaults(command=report)
    return parser


if __name__ == "__main__":
    main()
