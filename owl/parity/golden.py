# SPDX-License-Identifier: Apache-2.0
"""Run stored cases of the published model through the training model and compare.

A folder holds `config.json`, `model.safetensors`, `index.json`, and for each case
`CASE.safetensors` (inputs and outputs) and `CASE.grads.safetensors`. A gradient that is missing
means zero; a case without images has no `pixel_values`; one without logits is skipped.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn

from owl.config.run import DeviceKind, ModelConfig, ParallelConfig, Precision, Trainable
from owl.convert.families import PUBLISHED, family_of_folder
from owl.data.samples import IGNORE_INDEX, PackedBatch
from owl.errors import CheckpointError

LOGITS_TOLERANCE = 5e-5  # absolute; logits reach 21
FEATURES_TOLERANCE = 1e-5  # absolute
LOSS_TOLERANCE = 5e-5  # absolute
GRADIENT_TOLERANCE = 1e-4  # relative to max(max|ref|, 1e-3 x the largest gradient of the model)


@dataclass(frozen=True)
class Difference:
    """How far one quantity of one case is from the stored one."""

    quantity: str
    worst: float
    tolerance: float
    where: str = ""

    @property
    def passes(self) -> bool:
        """Whether the difference is within tolerance (a NaN is not)."""
        return self.worst <= self.tolerance


@dataclass(frozen=True)
class Case:
    """One stored case: rows of tokens, their images, and what the published model computed."""

    name: str
    tensors: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor] | None
    image_positions: list[list[int]]

    @property
    def rows(self) -> list[slice]:
        """The real tokens of each row: padding, left or right, is not computed here."""
        tokens = self.tensors["input_ids"]
        mask = self.tensors.get("attention_mask", torch.ones_like(tokens)).bool()
        found = [row.nonzero().flatten() for row in mask]
        return [slice(int(real[0]), int(real[-1]) + 1) for real in found]


def run_golden(folder: Path, tensor: int, packed: bool) -> None:
    """Compare every case of a folder; raises SystemExit(1) when one is outside tolerance.

    Args:
        folder: as described above.
        tensor: tensor-parallel degree; this process must be one of that many.
        packed: all rows of a case in one pack, instead of one pack a row.
    """
    from owl.mcore.process_groups import process_groups

    config, weights, cases = load_folder(folder)
    parallel = ParallelConfig(tensor=tensor, device=DeviceKind.cpu, timeout_minutes=2)
    with process_groups(parallel) as groups:
        chunk = _build(config, weights, parallel, groups)
        failed = False
        for case in cases:
            if "logits" not in case.tensors:
                differences = None
            else:
                differences = compare(case, chunk, config, groups.collection.tp, packed=packed)
                failed |= not all(difference.passes for difference in differences)
            if groups.is_writer:
                print(report(case.name, differences), flush=True)
        if not cases:
            raise CheckpointError(f"{folder}/index.json names no case: nothing was compared.")
        if failed:
            raise SystemExit(1)


def load_folder(folder: Path) -> tuple[ModelConfig, dict[str, Tensor], list[Case]]:
    """Read a golden folder: model config, published weights, cases."""
    for name in ("config.json", "model.safetensors", "index.json"):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder / name} does not exist. A golden folder holds config.json, "
                f"model.safetensors, index.json and a CASE.safetensors for each case."
            )
    weights = load_file(folder / "model.safetensors")
    about = json.loads((folder / "config.json").read_text())
    family = family_of_folder(about, weights.keys(), folder)
    config = family.read_config(about, weights.keys(), folder.name)
    index = json.loads((folder / "index.json").read_text())
    return config, weights, [_load_case(folder, name, about) for name, about in index.items()]


def _load_case(folder: Path, name: str, about: Mapping[str, Any]) -> Case:
    path, gradients = folder / f"{name}.safetensors", folder / f"{name}.grads.safetensors"
    tensors = load_file(path) if path.is_file() else {}
    rows = len(tensors.get("input_ids", ()))
    positions = about.get("image_positions") or [[] for _ in range(rows)]
    return Case(
        name=name,
        tensors=tensors,
        gradients=load_file(gradients) if gradients.is_file() else None,
        image_positions=[list(row or []) for row in positions],
    )


def _build(
    config: ModelConfig, weights: Mapping[str, Tensor], parallel: ParallelConfig, groups: Any
) -> nn.Module:
    from owl.mcore.parameters import load_full
    from owl.mcore.provider import build_model
    from owl.model.freeze import freeze

    (chunk,) = build_model(config, parallel, Precision.fp32, groups)
    ours = (
        (entry.ours, entry.to_ours(tuple(weights[name] for name in entry.published)))
        for entry in PUBLISHED[config.family].entries(config)
    )
    missing = load_full([chunk], ours)
    if missing:
        raise CheckpointError(f"no published weight for {missing}")
    # The published code encodes pictures without gradients.
    freeze(chunk, Trainable(vision_tower=False, projector=True, language_model=True, fusion=True))
    return chunk


def compare(
    case: Case, chunk: nn.Module, config: ModelConfig, tp_group: dist.ProcessGroup, *, packed: bool
) -> list[Difference]:
    """Run one case forward and backward and measure every stored quantity."""
    chunk.zero_grad(set_to_none=True)
    rows = list(range(len(case.rows)))
    batches = [_pack(case, pack, config) for pack in ([rows] if packed else [[r] for r in rows])]
    supervised = sum(batch.supervised_weight for batch in batches)
    loss, logits = torch.zeros(()), []
    for batch in batches:
        part = chunk(batch).sum() / max(supervised, 1.0)
        part.backward()
        loss = loss + part.detach()
        with torch.no_grad():
            logits.append(chunk(batch, return_logits=True))
    reference = [case.tensors["logits"][row, real] for row, real in enumerate(case.rows)]
    differences = [
        absolute("logits", torch.cat(logits), torch.cat(reference), LOGITS_TOLERANCE),
        *_feature_differences(case, chunk),
    ]
    if supervised and "loss" in case.tensors:
        stored = case.tensors["loss"].reshape(())
        differences.append(absolute("loss", loss, stored, LOSS_TOLERANCE))
    if case.gradients is not None:
        gradients = published_gradients(chunk, config, tp_group)
        differences.append(gradient_difference(case.gradients, gradients))
    return differences


def _pack(case: Case, rows: list[int], config: ModelConfig) -> PackedBatch:
    """Lay rows of a case end to end, without their padding."""
    real = [case.rows[row] for row in rows]
    tokens = [case.tensors["input_ids"][row, part] for row, part in zip(rows, real, strict=True)]
    shifted = []
    for row, part in zip(rows, real, strict=True):
        labels = case.tensors["labels"][row, part].long()
        shifted.append(torch.cat([labels[1:], torch.full((1,), IGNORE_INDEX)]))
    labels = torch.cat(shifted)
    offsets = [
        [position - part.start for position in case.image_positions[row]]
        for row, part in zip(rows, real, strict=True)
    ]
    first = sum(len(positions) for positions in case.image_positions[: rows[0]])
    tiles = sum(len(row) for row in offsets)
    size = config.vision_tower.image_size
    pixels = case.tensors.get("pixel_values", torch.zeros(0, 3, size, size))
    return PackedBatch(
        tokens=torch.cat(tokens),
        labels=labels,
        loss_weights=(labels != IGNORE_INDEX).float(),
        position_ids=torch.cat([torch.arange(len(row)) for row in tokens]),
        cu_seqlens=_boundaries([len(row) for row in tokens]),
        pixel_values=pixels[first : first + tiles],
        flat_media_offset=torch.tensor([o for row in offsets for o in row]).long(),
        cu_media=_boundaries([len(row) for row in offsets]),
        seqlens=tuple(len(row) for row in tokens),
        media_offset=offsets,
        keys=tuple(f"{case.name}[{row}]" for row in rows),
    )


def _boundaries(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).int()


def _feature_differences(case: Case, chunk: nn.Module) -> Iterator[Difference]:
    """Compare what tower and projector make of the case's pictures, where that is stored."""
    if "pixel_values" not in case.tensors:
        return
    with torch.no_grad():
        features = chunk.vision_tower(case.tensors["pixel_values"])
        projected = chunk.projector(features.flatten(0, 1)[:, None])
    for quantity, ours in (("vision_hidden_m2", features), ("image_embeds", projected)):
        if quantity in case.tensors:
            stored = case.tensors[quantity]
            yield absolute(quantity, ours.reshape(stored.shape), stored, FEATURES_TOLERANCE)


def absolute(quantity: str, ours: Tensor, stored: Tensor, tolerance: float) -> Difference:
    """Measure the largest absolute difference."""
    return Difference(quantity, float((ours - stored).abs().max()), tolerance)


def gradient_difference(
    stored: Mapping[str, Tensor], gradients: Iterable[tuple[str, Tensor]]
) -> Difference:
    """Find the parameter, in the published naming, whose gradient is furthest off."""
    largest = max((float(gradient.abs().max()) for gradient in stored.values()), default=0.0)
    worst, where = 0.0, ""
    for name, ours in gradients:
        reference = stored.get(name, torch.zeros_like(ours))
        scale = max(float(reference.abs().max()), 1e-3 * largest) or 1.0
        difference = float((ours - reference).abs().max()) / scale
        if not difference <= worst:
            worst, where = difference, name
    return Difference("gradients", worst, GRADIENT_TOLERANCE, where)


def published_gradients(
    chunk: nn.Module, config: ModelConfig, tp_group: dist.ProcessGroup
) -> Iterator[tuple[str, Tensor]]:
    """Yield every full gradient under its published name; zero where there is none."""
    from owl.mcore.parameters import VOCABULARY_TABLES, gather_full, global_names

    parameters = dict(global_names([chunk]))
    for entry in PUBLISHED[config.family].entries(config):
        parameter = parameters[entry.ours]
        if not parameter.requires_grad:
            continue
        share = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        full = gather_full(share, parameter, tp_group)
        if entry.ours in VOCABULARY_TABLES:
            full = full[: config.vocab_size]
        yield from zip(entry.published, entry.to_published(full), strict=True)


def report(name: str, differences: list[Difference] | None) -> str:
    """Draw the lines of one case."""
    if differences is None:
        return f"{name}: skipped, no logits are stored"
    lines = [f"{name}: {'ok' if all(d.passes for d in differences) else 'OUTSIDE TOLERANCE'}"]
    for difference in differences:
        verdict = "ok" if difference.passes else "OUTSIDE"
        where = f"  {difference.where}" if difference.where else ""
        lines.append(
            f"  {difference.quantity:<18}{difference.worst:>11.2e}  (tolerance "
            f"{difference.tolerance:.0e})  {verdict}{where}"
        )
    return "\n".join(lines)
