# SPDX-License-Identifier: Apache-2.0
"""How far one outcome is from another, kind by kind, and in which tensor."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from owl.parity.trial import OPTIMIZERS, Outcome

KINDS = ("loss", "gradients", "sgd", "adamw")
NOISE = {torch.float64: 1e-12, torch.float32: 1e-5}
"""A gradient this much smaller than the model's largest is zero by mathematics, or in float32 a
hundredth of it may be rounding: AdamW scales that up to a full step, so such weights are not
compared after AdamW. In float32 these are at most 1 in 100 that have a gradient at all."""


Named = Mapping[str, Tensor]
Measure = Callable[[Named, Named, Named | None], tuple[float, str]]


def largest_difference(
    ours: Named, reference: Named, live: Named | None = None
) -> tuple[float, str]:
    """Find the worst max|a - b| / max(max|ref|, 1e-3 x the largest of all), and where it is."""
    largest = max(float(tensor.abs().max()) for tensor in reference.values())
    worst, where = 0.0, ""
    for name, theirs in reference.items():
        scale = max(float(theirs.abs().max()), 1e-3 * largest)
        relative = float(_difference(name, ours, reference, live).abs().max()) / scale
        if not relative <= worst:
            worst, where = relative, name
    return worst, where


def euclidean_distance(
    ours: Named, reference: Named, live: Named | None = None
) -> tuple[float, str]:
    """Measure |a - b| / |ref| over all tensors as one vector, and name the one that adds most.

    For bfloat16, where both sides are noise around the truth: the largest of thousands of
    roundings is a matter of luck, their length is not.
    """
    squares = {
        name: float(_difference(name, ours, reference, live).square().sum()) for name in reference
    }
    length = sum(float(theirs.double().square().sum()) for theirs in reference.values())
    return math.sqrt(sum(squares.values()) / length), max(squares, key=squares.__getitem__)


def distances(
    outcome: Outcome, reference: Outcome, measure: Measure = largest_difference
) -> tuple[dict[str, float], dict[str, str]]:
    """Measure how far two outcomes are apart, kind by kind, and name the tensor to look at.

    Losses are those of each step's supervised tokens, and their sum: in the sum alone, errors can
    cancel by luck.
    """
    worst: dict[str, float] = {}
    where: dict[str, str] = {}

    def compare(kind: str, ours: Named, theirs: Named, live: Named | None = None) -> None:
        if ours.keys() != theirs.keys():
            missing = sorted(ours.keys() ^ theirs.keys())
            worst[kind], where[kind] = math.inf, f"only one of the two has {missing[0]}"
        else:
            worst[kind], where[kind] = measure(ours, theirs, live)

    compare("loss", _losses(outcome), _losses(reference))
    compare("gradients", _gradients(outcome), _gradients(reference))
    for kind in OPTIMIZERS:
        live = _live(reference.gradients["adamw step 1"]) if kind == "adamw" else None
        compare(kind, outcome.parameters[kind], reference.parameters[kind], live)
    return worst, where


def _losses(outcome: Outcome) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for kind in OPTIMIZERS:
        for step, loss in enumerate(outcome.losses[kind], start=1):
            named[f"{kind} step {step}"] = torch.tensor(loss, dtype=torch.float64)
        for step, losses in enumerate(outcome.token_losses[kind], start=1):
            named[f"tokens of {kind} step {step}"] = losses
    return named


def _gradients(outcome: Outcome) -> dict[str, Tensor]:
    return {
        f"{name} in {step}": gradient
        for step, gradients in outcome.gradients.items()
        for name, gradient in gradients.items()
    }


def _difference(name: str, ours: Named, reference: Named, live: Named | None) -> Tensor:
    difference = ours[name].double() - reference[name].double()
    return difference if live is None else difference * live[name]


def _live(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mark the weights whose gradient is more than rounding."""
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    return {
        name: gradient.abs() > NOISE[gradient.dtype] * largest
        for name, gradient in gradients.items()
    }
