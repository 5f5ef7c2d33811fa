# SPDX-License-Identifier: Apache-2.0
"""How far one outcome is from another, kind by kind, and in which tensor."""

from collections.abc import Mapping

import torch
from torch import Tensor

from owl.parity.layouts import Verdict
from owl.parity.trial import OPTIMIZERS, Outcome

KINDS = ("loss", "gradients", "sgd", "adamw")
NOISE = {torch.float64: 1e-12, torch.float32: 1e-6}
"""A gradient this much smaller than the model's largest is zero by mathematics, or all rounding:
AdamW scales that up to a full step, so such weights are not compared after AdamW."""


def distances(outcome: Outcome, reference: Outcome) -> tuple[dict[str, float], dict[str, str]]:
    """Measure the worst difference of each kind, and name the tensor it is in.

    Tensors by max|a - b| / max(max|ref|, 1e-3 x the largest of the model); losses relatively.
    """
    worst: dict[str, float] = {"loss": 0.0}
    where: dict[str, str] = {"loss": ""}
    for kind in OPTIMIZERS:
        pairs = zip(outcome.losses[kind], reference.losses[kind], strict=True)
        for step, (ours, theirs) in enumerate(pairs):
            difference = abs(ours - theirs) / abs(theirs)
            if not difference <= worst["loss"]:
                worst["loss"], where["loss"] = difference, f"{kind} step {step + 1}"
    worst["gradients"], where["gradients"] = _furthest(outcome.gradients, reference.gradients)
    for kind in OPTIMIZERS:
        live = _live(reference.gradients) if kind == "adamw" else None
        worst[kind], where[kind] = _furthest(
            outcome.parameters[kind], reference.parameters[kind], live
        )
    return worst, where


def judge(
    outcome: Outcome, reference: Outcome, tolerance: Mapping[str, float], seconds: float
) -> Verdict:
    """Compare an outcome with the run of one process."""
    worst, where = distances(outcome, reference)
    return Verdict(worst=worst, where=where, tolerance=dict(tolerance), seconds=seconds)


def _furthest(
    ours: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    live: Mapping[str, Tensor] | None = None,
) -> tuple[float, str]:
    if ours.keys() != reference.keys():
        missing = sorted(reference.keys() ^ ours.keys())
        return float("inf"), f"only one of the two has {missing[0]}"
    largest = max(float(tensor.abs().max()) for tensor in reference.values())
    worst, where = 0.0, ""
    for name, theirs in reference.items():
        difference = (ours[name].double() - theirs.double()).abs()
        if live is not None:
            difference = difference * live[name]
        scale = max(float(theirs.abs().max()), 1e-3 * largest)
        relative = float(difference.max()) / scale
        if not relative <= worst:
            worst, where = relative, name
    return worst, where


def _live(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mark the weights whose gradient is more than rounding."""
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    return {
        name: gradient.abs() > NOISE[gradient.dtype] * largest
        for name, gradient in gradients.items()
    }
