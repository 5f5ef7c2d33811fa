# SPDX-License-Identifier: Apache-2.0
"""Two pictures of a finished demo: its loss curves, and a sheet of questions with their answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from owl.demo.digits import HELD_OUT, Digits, load_digits
from owl.demo.evaluate import Prediction

SMOOTHED_SHARE = 0.05
"""Width of the running mean over the raw losses, as a share of all steps."""


@dataclass(frozen=True, slots=True)
class SheetPart:
    """The questions that the sheet shows below one heading."""

    heading: str
    rows: int
    columns: int


SHEET = {
    "single": SheetPart("One picture", rows=2, columns=5),
    "several": SheetPart("Several pictures, asked by number", rows=2, columns=3),
    "finding": SheetPart("Several pictures, asked by what they show", rows=2, columns=3),
}
GAP = 2
"""White pixels between the pictures of one question."""
RIGHT, WRONG, RAW, SMOOTH = "#1a7f37", "#cf222e", "#c6d4e8", "#1f5fa8"
SHEET_SEED = 11


def plot_losses(path: Path, curves: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    """Draw the loss of each stage over its steps, side by side.

    Args:
        path: PNG to write.
        curves: title -> (step, loss) pairs.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    plt = _pyplot()
    figure, axes = plt.subplots(1, len(curves), figsize=(10, 3.8), squeeze=False)
    for axis, (title, curve) in zip(axes[0], curves.items(), strict=True):
        steps, losses = [step for step, _ in curve], [loss for _, loss in curve]
        axis.plot(steps, losses, color=RAW, linewidth=1, label="each step")
        axis.plot(steps, smooth(losses), color=SMOOTH, linewidth=2, label="running mean")
        axis.set_title(title, fontsize=11)
        axis.set(xlabel="optimizer step", yscale="log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.grid(visible=True, alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("loss per supervised token")
    axes[0][-1].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def smooth(values: Sequence[float]) -> list[float]:
    """Return the mean of each value and its neighbours."""
    reach = round(SMOOTHED_SHARE * len(values) / 2)
    return [
        fmean(values[max(0, place - reach) : place + reach + 1]) for place in range(len(values))
    ]


def plot_answers(path: Path, predictions: Sequence[Prediction]) -> None:
    """Draw a sheet of held-out pictures, each with question, answer and truth.

    Args:
        path: PNG to write.
        predictions: of one stage.
    """
    plt = _pyplot()
    digits = load_digits(HELD_OUT)
    figure = plt.figure(figsize=(10, 11), layout="constrained")
    figure.suptitle("Held-out digits, answered after stage 2", fontsize=13, weight="bold")
    for below, (kind, part) in zip(figure.subfigures(len(SHEET), 1), SHEET.items(), strict=True):
        below.suptitle(part.heading, fontsize=11)
        below.get_layout_engine().set(wspace=0.08)
        axes = below.subplots(part.rows, part.columns, squeeze=False).flatten()
        for axis in axes:
            axis.set_axis_off()
        chosen = choose_for_sheet(predictions, kind, len(axes))
        for axis, prediction in zip(axes, chosen, strict=False):
            _draw_answer(axis, prediction, digits)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def choose_for_sheet(predictions: Sequence[Prediction], kind: str, count: int) -> list[Prediction]:
    """Choose questions of a kind at random, so that right and wrong answers are both shown."""
    asked = [prediction for prediction in predictions if prediction.kind == kind]
    return Random(SHEET_SEED).sample(asked, min(count, len(asked)))


def _draw_answer(axis: Any, prediction: Prediction, digits: Digits) -> None:
    axis.imshow(_side_by_side(prediction.indices, digits), cmap="gray", vmin=0, vmax=255)
    axis.set_title(prediction.question, fontsize=8.5)
    mark, colour = ("✓", RIGHT) if prediction.is_right else ("✗", WRONG)
    answer = prediction.answer or "(nothing)"
    truth = "" if prediction.is_right else f"   truth: {prediction.truth}"
    axis.text(
        0.5, -0.06, f"{mark} {answer}{truth}", color=colour, fontsize=9.5, weight="bold",
        ha="center", va="top", transform=axis.transAxes,
    )  # fmt: skip


def _side_by_side(indices: Sequence[int], digits: Digits) -> NDArray[np.uint8]:
    """Join pictures in a row, with white gaps: [56, w]."""
    pictures = [digits.pictures[index - HELD_OUT.start] for index in indices]
    gap = np.full((pictures[0].shape[0], GAP), 255, dtype=np.uint8)
    row = [part for picture in pictures for part in (picture, gap)]
    return np.concatenate(row[:-1], axis=1)


def _pyplot() -> Any:
    """Import matplotlib (of the `demo` extra) with a backend for files that opens no window."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
