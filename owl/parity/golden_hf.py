# SPDX-License-Identifier: Apache-2.0
"""Run stored cases of the published model through owl.hf and compare (see owl/parity/golden.py)."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from owl.data.samples import IGNORE_INDEX
from owl.errors import CheckpointError
from owl.hf import Owl3ForConditionalGeneration
from owl.parity.golden import (
    FEATURES_TOLERANCE,
    LOGITS_TOLERANCE,
    LOSS_TOLERANCE,
    Case,
    Difference,
    absolute,
    gradient_difference,
    load_folder,
    report,
)


def run_golden_hf(folder: Path) -> None:
    """Compare every case of a folder; raises SystemExit(1) when one is outside tolerance."""
    _, _, cases = load_folder(folder)
    if not cases:
        raise CheckpointError(f"{folder}/index.json names no case: nothing was compared.")
    model = Owl3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    model.vision_model.requires_grad_(False)  # the published code encodes without gradients
    failed = False
    for case in cases:
        differences = compare_hf(case, model) if "logits" in case.tensors else None
        failed |= differences is not None and not all(each.passes for each in differences)
        print(report(case.name, differences), flush=True)
    if failed:
        raise SystemExit(1)


def compare_hf(case: Case, model: Owl3ForConditionalGeneration) -> list[Difference]:
    """Run one case forward and backward as stored, padding included."""
    model.zero_grad(set_to_none=True)
    tensors = case.tensors
    labels = tensors.get("labels")
    output = model(
        input_ids=tensors["input_ids"],
        attention_mask=tensors.get("attention_mask"),
        labels=labels,
        pixel_values=tensors.get("pixel_values"),
        media_offset=_offsets(case),
    )
    real = tensors.get("attention_mask", torch.ones_like(tensors["input_ids"])).bool()
    differences = [
        absolute("logits", output.logits.detach()[real], tensors["logits"][real], LOGITS_TOLERANCE),
        *_feature_differences(tensors, model),
    ]
    if labels is not None and bool((labels[:, 1:] != IGNORE_INDEX).any()):
        output.loss.backward()
        if "loss" in tensors:
            stored = tensors["loss"].reshape(())
            differences.append(absolute("loss", output.loss.detach(), stored, LOSS_TOLERANCE))
        if case.gradients is not None:
            gradients = _named_gradients(model, case.gradients)
            differences.append(gradient_difference(case.gradients, gradients))
    return differences


def _offsets(case: Case) -> list[list[int]]:
    """Positions within each sample; the stored ones count the padding to the left."""
    return [
        [position - real.start for position in positions]
        for positions, real in zip(case.image_positions, case.rows, strict=True)
    ]


def _feature_differences(
    tensors: Mapping[str, Tensor], model: Owl3ForConditionalGeneration
) -> Iterator[Difference]:
    if "pixel_values" not in tensors:
        return
    with torch.no_grad():
        encoded = model.get_image_features(tensors["pixel_values"])
    features, projected = encoded.last_hidden_state, encoded.pooler_output
    for quantity, ours in (("vision_hidden_m2", features), ("image_embeds", projected)):
        if quantity in tensors:
            stored = tensors[quantity]
            yield absolute(quantity, ours.reshape(stored.shape), stored, FEATURES_TOLERANCE)


def _named_gradients(
    model: Owl3ForConditionalGeneration, stored: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Yield every gradient, zero where there is none."""
    learning = {name: each for name, each in model.named_parameters() if each.requires_grad}
    missing = sorted(set(stored) - set(learning))
    if missing:
        raise CheckpointError(f"no parameter of owl.hf is named {', '.join(missing)}.")
    for name, parameter in learning.items():
        yield name, torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
