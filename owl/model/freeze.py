# SPDX-License-Identifier: Apache-2.0
"""Which parameters are trained, from four switches, and the table that shows it."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from owl.config.run import Trainable
from owl.model.lora import is_adapter

PARTS = ("vision_tower", "projector", "language_model", "fusion")


@dataclass(frozen=True)
class PartSize:
    """How large a part is, and how much of it is trained."""

    part: str
    parameters: int
    trainable: int


def part_of(name: str) -> str:
    """Return which part a parameter belongs to, by its name in our model."""
    if name.startswith("vision_tower."):
        return "vision_tower"
    if name.startswith("projector."):
        return "projector"
    if any(part in name for part in (".linear_media_kv.", ".fusion.", "norm.media.")):
        return "fusion"
    return "language_model"


def freeze(model: nn.Module, trainable: Trainable) -> None:
    """Let only adapters, and the parts that `trainable` names, require gradients."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_adapter(name) or getattr(trainable, part_of(name)))


def part_sizes(sizes: Iterable[tuple[str, int]], trainable: Trainable) -> list[PartSize]:
    """Count parameters by part, given (name, number of elements) of the unsharded model.

    The adapters of a part, which are always trained, are a part of their own.
    """
    totals = dict.fromkeys(PARTS, 0)
    adapters = dict.fromkeys(PARTS, 0)
    for name, elements in sizes:
        (adapters if is_adapter(name) else totals)[part_of(name)] += elements
    return [
        *(PartSize(part, n, n if getattr(trainable, part) else 0) for part, n in totals.items()),
        *(PartSize(f"{part} LoRA", n, n) for part, n in adapters.items() if n),
    ]


def part_table(sizes: list[PartSize]) -> str:
    """Draw the table printed at the start of a run."""
    rows = [(s.part, s.parameters, s.trainable) for s in sizes]
    rows.append(("total", sum(r[1] for r in rows), sum(r[2] for r in rows)))
    lines = [f"{'part':<20}{'parameters':>18}{'trainable':>18}{'share':>9}"]
    for part, total, learns in rows:
        share = f"{learns / total:.1%}" if total else "-"
        lines.append(f"{part:<20}{total:>18,}{learns:>18,}{share:>9}")
    return "\n".join(lines)
