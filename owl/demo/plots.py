# SPDX-License-Identifier: Apache-2.0
"""Two pictures of a finished demo: its loss curves, and a sheet of questions with their answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from owl.demo.digits import HELD_OUT, Digits, load_digits
from owl.demo.evaluate import Prediction

SMOOTHING = 0.05
"""Share of the newest step in the moving average that is drawn over the raw losses."""
SHEET = {"single": 10, "several": 6, "finding": 6}
"""How many questions of each kind the sheet shows."""
COLUMNS = {"single": 5, "several": 3, "finding": 3}
RIGHT, WRONG, RAW, SMOOTH = "#1a7f37", "#cf222e", "#c6d4e8", "#1f5fa8"
SHEET_SEED = 11


def plot_losses(path: Path, curves: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    """Draw the loss of each stage over its steps, side by side.

    Args:
        path: PNG to write.
        curves: title -> (step, loss) pairs.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(1, len(curves), figsize=(10, 3.8), squeeze=False)
    for axis, (title, curve) in zip(axes[0], curves.items(), strict=True):
        steps, losses = [step for step, _ in curve], [loss for _, loss in curve]
        axis.plot(steps, losses, color=RAW, linewidth=1, label="each step")
        axis.plot(steps, smooth(losses), color=SMOOTH, linewidth=2, label="moving average")
        axis.set(title=title, xlabel="optimizer step", yscale="log")
        axis.grid(visible=True, which="both", alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("loss per supervised token")
    axes[0][-1].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def smooth(values: Sequence[float]) -> list[float]:
    """Take the exponential moving average, from the first value on."""
    smoothed: list[float] = []
    for value in values:
        last = smoothed[-1] if smoothed else value
        smoothed.append(last + SMOOTHING * (value - last))
    return smoothed


def plot_answers(path: Path, predictions: Sequence[Prediction]) -> None:
    """Draw a sheet of held-out pictures, each with question, answer and truth.

    Args:
        path: PNG to write.
        predictions: of one stage.
    """
    plt = _pyplot()
    digits = load_digits(HELD_OUT)
    rows = {kind: -(-count // COLUMNS[kind]) for kind, count in SHEET.items()}
    figure = plt.figure(figsize=(10, 1.75 * sum(rows.values()) + 0.9), layout="constrained")
    figure.suptitle("Held-out digits after stage 2", fontsize=13, weight="bold")
    parts = figure.subfigures(len(rows), 1, height_ratios=list(rows.values()))
    for part, (kind, count) in zip(parts, SHEET.items(), strict=True):
        axes = part.subplots(rows[kind], COLUMNS[kind], squeeze=False).flatten()
        chosen = choose_for_sheet(predictions, kind, count)
        for axis in axes:
            axis.set_axis_off()
        for axis, prediction in zip(axes, chosen, strict=False):
            _draw_answer(axis, prediction, digits)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def choose_for_sheet(predictions: Sequence[Prediction], kind: str, count: int) -> list[Prediction]:
    """Draw questions of a kind at random, so that right and wrong answers show as they come."""
    asked = [prediction for prediction in predictions if prediction.kind == kind]
    return Random(SHEET_SEED).sample(asked, min(count, len(asked)))


def _draw_answer(axis: Any, prediction: Prediction, digits: Digits) -> None:
    axis.imshow(_side_by_side(prediction.indices, digits), cmap="gray", vmin=0, vmax=255)
    axis.set_title(prediction.question, fontsize=9)
    mark, colour = ("✓", RIGHT) if prediction.is_right else ("✗", WRONG)
    answer = prediction.answer or "(nothing)"
    truth = "" if prediction.is_right else f"   truth: {prediction.truth}"
    axis.text(
        0.5, -0.06, f"{mark} {answer}{truth}", color=colour, fontsize=10, weight="bold",
        ha="center", va="top", transform=axis.transAxes,
    )  # fmt: skip


def _side_by_side(indices: Sequence[int], digits: Digits) -> NDArray[np.uint8]:
    """Lay pictures out in a row, with white gaps: [56, w]."""
    pictures = [digits.pictures[index - HELD_OUT.start] for index in indices]
    gap = np.full((pictures[0].shape[0], 4), 255, dtype=np.uint8)
    row = [part for picture in pictures for part in (picture, gap)]
    return np.concatenate(row[:-1], axis=1)


def _pyplot() -> Any:
    """Import matplotlib, which belongs to the `demo` extra, for files only: no window opens."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
