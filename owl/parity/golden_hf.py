# SPDX-License-Identifier: Apache-2.0
"""Run stored cases of the published model through owl.hf and compare (see golden_case.py)."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from owl.config.run import ModelConfig
from owl.data.samples import IGNORE_INDEX
from owl.errors import CheckpointError
from owl.hf import AUTO_CLASSES, Owl3ForConditionalGeneration
from owl.parity.golden import (
    ABSTRACTOR_TOLERANCE,
    FEATURES_TOLERANCE,
    LOGITS_TOLERANCE,
    LOSS_TOLERANCE,
    Difference,
    absolute,
    gradient_difference,
    report,
)
from owl.parity.golden_case import Case, load_folder, rows_of


def run_golden_hf(folder: Path) -> None:
    """Compare every case of a folder; raises SystemExit(1) when one is outside tolerance."""
    config, _, cases = load_folder(folder)
    if not cases:
        raise CheckpointError(f"{folder}/index.json names no case: nothing was compared.")
    model = _load(folder)
    failed = False
    for case in cases:
        differences = compare_hf(case, model, config) if "logits" in case.tensors else None
        failed |= differences is not None and not all(each.passes for each in differences)
        print(report(case.name, differences), flush=True)
    if failed:
        raise SystemExit(1)


def _load(folder: Path) -> PreTrainedModel:
    """Load the model of a folder; early ones name no model_type."""
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    classes: Mapping[str, Any] = AUTO_CLASSES.get(kind, {})
    found = classes.get("AutoModelForCausalLM", Owl3ForConditionalGeneration)
    model: PreTrainedModel = found.from_pretrained(folder, dtype=torch.float32)
    if found is Owl3ForConditionalGeneration:
        model.vision_model.requires_grad_(False)  # its code encodes without gradients
    return model


def compare_hf(case: Case, model: PreTrainedModel, config: ModelConfig) -> list[Difference]:
    """Run one case forward and backward, all rows at once, padded on the side as stored."""
    model.zero_grad(set_to_none=True)
    tensors, rows = case.tensors, rows_of(case, config)
    shape = (len(rows), max(len(row.tokens) for row in rows))
    tokens, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORE_INDEX)
    for index, (row, real) in enumerate(zip(rows, case.rows, strict=True)):
        start = shape[1] - len(row.tokens) if real.start else 0
        part = slice(start, start + len(row.tokens))
        tokens[index, part], mask[index, part] = row.tokens, 1
        labels[index, start + 1 : part.stop] = row.labels[:-1]  # the model shifts them back
    pixels = torch.cat([row.tiles for row in rows])
    offsets = [row.offsets for row in rows]
    media = {"pixel_values": pixels, "media_offset": offsets} if len(pixels) else {}
    output = model(input_ids=tokens, attention_mask=mask, labels=labels, **media)
    stored = torch.cat([row.logits for row in rows])
    differences = [
        absolute("logits", output.logits.detach()[mask.bool()], stored, LOGITS_TOLERANCE),
        *_feature_differences(tensors, model),
    ]
    if bool((labels[:, 1:] != IGNORE_INDEX).any()):
        output.loss.backward()
        if "loss" in tensors:
            loss = tensors["loss"].reshape(())
            differences.append(absolute("loss", output.loss.detach(), loss, LOSS_TOLERANCE))
        if case.gradients is not None:
            gradients = _named_gradients(model, case.gradients)
            differences.append(gradient_difference(case.gradients, gradients))
    return differences


def _feature_differences(
    tensors: Mapping[str, Tensor], model: PreTrainedModel
) -> Iterator[Difference]:
    if "pixel_values" not in tensors:
        return
    with torch.no_grad():
        encoded = model.get_image_features(tensors["pixel_values"])
    features, projected = encoded.last_hidden_state, encoded.pooler_output
    for quantity, ours, tolerance in (
        ("vision_hidden_m2", features, FEATURES_TOLERANCE),
        ("vision_output", features, FEATURES_TOLERANCE),
        ("image_embeds", projected, FEATURES_TOLERANCE),
        ("abstractor_output", projected, ABSTRACTOR_TOLERANCE),
    ):
        if quantity in tensors:
            stored = tensors[quantity]
            yield absolute(quantity, ours.reshape(stored.shape), stored, tolerance)


def _named_gradients(
    model: PreTrainedModel, stored: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Yield every gradient, zero where there is none."""
    learning = {name: each for name, each in model.named_parameters() if each.requires_grad}
    missing = sorted(set(stored) - set(learning))
    if missing:
        raise CheckpointError(f"no parameter of owl.hf is named {', '.join(missing)}.")
    for name, parameter in learning.items():
        yield name, torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
