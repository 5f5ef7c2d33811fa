# SPDX-License-Identifier: Apache-2.0
"""Run stored cases of the published model through the training model and compare.

See owl/parity/golden_case.py for what a folder holds.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from owl.config.run import (
    DeviceKind,
    ModelConfig,
    OptimConfig,
    ParallelConfig,
    Precision,
    Trainable,
    VisionParallelism,
)
from owl.convert.families import PUBLISHED
from owl.data.samples import PackedBatch
from owl.errors import CheckpointError
from owl.mcore.optimizer import build_megatron_optimizer, optimizer_config
from owl.mcore.parameters import load_full, unwrapped
from owl.mcore.process_groups import ProcessGroups, process_groups
from owl.mcore.provider import build_model, wrap_for_training
from owl.mcore.schedule import attach_to_schedule, collect_logits, forward_backward
from owl.parity.golden_case import Case, load_folder, pack_rows, rows_of
from owl.parity.trial import gather_published

LOGITS_TOLERANCE = 5e-5  # absolute; logits reach 21
FEATURES_TOLERANCE = 1e-5  # absolute
ABSTRACTOR_TOLERANCE = 2e-5  # absolute; its output reaches 10
LOSS_TOLERANCE = 5e-5  # absolute
GRADIENT_TOLERANCE = 1e-4  # relative to max(max|ref|, 1e-3 x the largest gradient of the model)
NOISE = 1e-6
"""A stored gradient this much smaller than the model's largest is zero by mathematics, as those of
key biases are; both sides are rounding, which is compared with the largest gradient."""


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
class GoldenLayout:
    """How the training model is laid out for a comparison."""

    tensor: int = 1
    pipeline: int = 1
    sequence: bool = False
    image_parallel: bool = False
    packed: bool = False  # all rows of a case in one pack, instead of one pack a row

    @property
    def parallel(self) -> ParallelConfig:
        """The same for the trainer."""
        return ParallelConfig(
            tensor=self.tensor,
            pipeline=self.pipeline,
            sequence=self.sequence,
            device=DeviceKind.cpu,
            timeout_minutes=2,
        )


def run_golden(folder: Path, layout: GoldenLayout) -> None:
    """Compare every case of a folder; raises SystemExit(1) when one is outside tolerance.

    Args:
        folder: with stored cases.
        layout: this process must be one of as many as it needs.
    """
    config, weights, cases = load_folder(folder)
    if not cases:
        raise CheckpointError(f"{folder}/index.json names no case: nothing was compared.")
    if layout.image_parallel:
        tower = replace(config.vision_tower, parallelism=VisionParallelism.image)
        config = replace(config, vision_tower=tower)
    with process_groups(layout.parallel) as groups:
        failed = False
        for case in cases:
            differences = None
            if "logits" in case.tensors:
                chunks = _build(config, weights, case, layout.parallel, groups)
                differences = compare(case, chunks, config, groups, packed=layout.packed)
                failed |= not all(difference.passes for difference in differences)
            if groups.is_writer:
                print(report(case.name, differences), flush=True)
        if failed:
            raise SystemExit(1)


def _build(
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    case: Case,
    parallel: ParallelConfig,
    groups: ProcessGroups,
) -> list[nn.Module]:
    """Build this rank's model with the published weights, ready for Megatron's schedule."""
    chunks = build_model(config, parallel, Precision.fp32, groups)
    entries = list(PUBLISHED[config.family].entries(config))
    missing = load_full(
        chunks,
        ((e.ours, e.to_ours(tuple(weights[name] for name in e.published))) for e in entries),
    )
    if missing:
        raise CheckpointError(f"no published weight for {missing}")
    tower = {name for e in entries if e.ours.startswith("vision_tower.") for name in e.published}
    # Some published code encodes pictures without gradients.
    learns = not tower.isdisjoint(case.gradients or ())
    chunks = wrap_for_training(
        chunks,
        Trainable(vision_tower=learns, projector=True, language_model=True, fusion=True),
        parallel,
        precision=Precision.fp32,
        distributed_optimizer=False,
    )
    for chunk in chunks:
        chunk.eval()  # as the stored cases were computed
    optim = optimizer_config(OptimConfig(distributed=False), Precision.fp32)
    optimizer = build_megatron_optimizer(optim, chunks)
    attach_to_schedule(chunks, optimizer, groups)
    # The schedule asks the optimizer, weakly held, how to scale the loss: here not at all.
    unwrapped(chunks[0]).config.grad_scale_func = None
    return chunks


def compare(
    case: Case,
    chunks: list[nn.Module],
    config: ModelConfig,
    groups: ProcessGroups,
    *,
    packed: bool,
) -> list[Difference]:
    """Run one case forward and backward and measure every stored quantity.

    Returns:
        The differences, the same on every rank.
    """
    rows = rows_of(case, config)
    batches = [pack_rows(part, case.name) for part in ([rows] if packed else [[r] for r in rows])]
    reference = torch.cat([row.logits for row in rows])
    logits = _from_last_stage(collect_logits(chunks, batches, groups), groups)
    differences = [
        absolute("logits", logits, reference, LOGITS_TOLERANCE),
        *_feature_differences(case, chunks[0], groups),
    ]
    supervised = sum(batch.supervised_weight for batch in batches)
    if supervised:
        differences += _training_differences(case, chunks, config, groups, batches, supervised)
    return _of_writer(differences, groups)


def _training_differences(
    case: Case,
    chunks: list[nn.Module],
    config: ModelConfig,
    groups: ProcessGroups,
    batches: Sequence[PackedBatch],
    supervised: float,
) -> Iterator[Difference]:
    for chunk in chunks:
        chunk.zero_grad_buffer()
    loss = forward_backward(chunks, batches, groups, total_weight=supervised, full_gradients=True)
    if "loss" in case.tensors:
        stored = case.tensors["loss"].reshape(())
        yield absolute("loss", torch.tensor(loss), stored, LOSS_TOLERANCE)
    if case.gradients is not None:
        gradients = gather_published(chunks, config, groups, gradients=True)
        yield gradient_difference(case.gradients, gradients.items())


def _from_last_stage(logits: list[Tensor], groups: ProcessGroups) -> Tensor:
    """Bring the last stage's logits to every stage: [t, v] of all packs."""
    stages: list[list[Tensor]] = [[] for _ in range(groups.pp_size)]
    dist.all_gather_object(stages, logits, group=groups.collection.pp)
    return torch.cat(stages[-1])


def _of_writer(differences: list[Difference], groups: ProcessGroups) -> list[Difference]:
    """Take the first rank's, which alone holds the first stage and all gradients."""
    box = [differences if groups.is_writer else None]
    dist.broadcast_object_list(box, src=0)
    assert box[0] is not None
    return box[0]


def _feature_differences(
    case: Case, chunk: nn.Module, groups: ProcessGroups
) -> Iterator[Difference]:
    """Compare what tower and projector make of the case's pictures, where that is stored."""
    if "pixel_values" not in case.tensors or not groups.is_first_stage:
        return
    model = unwrapped(chunk)
    with torch.no_grad():
        features = model.vision_tower(case.tensors["pixel_values"])
        projected = model.projector(features.flatten(0, 1)[:, None])
    for quantity, ours, tolerance in (
        ("vision_hidden_m2", features, FEATURES_TOLERANCE),
        ("vision_output", features, FEATURES_TOLERANCE),
        ("image_embeds", projected, FEATURES_TOLERANCE),
        ("abstractor_output", projected, ABSTRACTOR_TOLERANCE),
    ):
        if quantity in case.tensors:
            stored = case.tensors[quantity]
            yield absolute(quantity, ours.reshape(stored.shape), stored, tolerance)


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
        size = float(reference.abs().max())
        scale = (largest if 0 < size < NOISE * largest else max(size, 1e-3 * largest)) or 1.0
        difference = float((ours - reference).abs().max()) / scale
        if not difference <= worst:
            worst, where = difference, name
    return Difference("gradients", worst, GRADIENT_TOLERANCE, where)


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
