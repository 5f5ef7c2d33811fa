# SPDX-License-Identifier: Apache-2.0
"""Compare a Hugging Face folder with a checkpoint: every tensor, then the logits on a probe."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from owl.checkpoint.folder import resolve_checkpoint
from owl.checkpoint.inference import loaded_model
from owl.checkpoint.load import check_same_model
from owl.checkpoint.save import CARRIED
from owl.convert.adapters import MergedTensors
from owl.convert.check import PublishedFolder, check_folder, check_ours
from owl.convert.files.reader import HfFolder, WeightReader
from owl.convert.probe import make_probe
from owl.progress import Progress

LOGITS_TOLERANCE = 1e-4  # in float32, relative to the largest logit: two codes sum in two orders
_LINES = 20


@dataclass(frozen=True)
class Difference:
    """One tensor that differs between folder and checkpoint."""

    published: str
    ours: str
    what: str

    def __str__(self) -> str:
        return f"{self.published} ({self.ours}): {self.what}"


@dataclass(frozen=True)
class Report:
    """The result of a comparison."""

    compared: int  # tensors
    differences: list[Difference] = field(default_factory=list)
    largest_logit_difference: float | None = None  # None: logits were not computed
    largest_logit: float = 0.0

    @property
    def is_equal(self) -> bool:
        """Whether all tensors are equal, bit for bit, and the logits too, within rounding."""
        allowed = LOGITS_TOLERANCE * max(1.0, self.largest_logit)
        return not self.differences and (self.largest_logit_difference or 0.0) <= allowed

    def __str__(self) -> str:
        lines = [f"{self.compared} tensors compared, {len(self.differences)} differ"]
        lines += [f"  {difference}" for difference in self.differences[:_LINES]]
        if len(self.differences) > _LINES:
            lines.append(f"  and {len(self.differences) - _LINES} more")
        if self.largest_logit_difference is not None:
            lines.append(
                f"logits on the probe: largest difference {self.largest_logit_difference:.3g} "
                f"(they reach {self.largest_logit:.3g})"
            )
        return "\n".join(lines)


def verify(
    hf: Path,
    checkpoint: Path,
    *,
    logits: bool = True,
    seed: int = 1234,
    report: Callable[[str], None] = lambda line: None,
) -> Report:
    """Compare a published folder and a checkpoint.

    The tensors are read one at a time. The logits are computed in float32 by two implementations,
    one after the other: the folder's by the inference code, the checkpoint's by the training model.

    Args:
        hf: published folder.
        checkpoint: checkpoint, or run folder whose newest is taken.
        logits: whether to compare logits.
        seed: of the probe.
        report: receives lines about progress.

    Raises:
        CheckpointError: the two are different models (sizes, layers), or one is damaged.
    """
    checkpoint = resolve_checkpoint(checkpoint, "--checkpoint")
    published = check_folder(hf, report=report)
    model = published.model
    check_same_model(checkpoint, model, "--hf", "Name the folder and a checkpoint of one model.")
    compared = list(_compare(published, checkpoint, report))
    differences = [difference for difference in compared if difference is not None]
    if not logits:
        return Report(len(compared), differences)
    probe = make_probe(model, seed)
    theirs = published.family.logits(hf, probe)
    with loaded_model(checkpoint) as loaded:
        ours = loaded.logits(probe).cpu()
    worst = float((theirs - ours).abs().max())
    return Report(len(compared), differences, worst, float(theirs.abs().max()))


def compare_tensors(published: Tensor, ours: Tensor) -> str | None:
    """Describe how two tensors of one published name differ; None where no bit does."""
    if published.dtype != ours.dtype:
        return f"{_dtype(published)} in the folder, {_dtype(ours)} in the checkpoint"
    if torch.equal(published.view(torch.uint8), ours.contiguous().view(torch.uint8)):
        return None
    difference = (published.double() - ours.double()).abs().flatten()
    place = int(difference.argmax())
    index = [int(i) for i in torch.unravel_index(torch.tensor(place), published.shape)]
    count = int((difference != 0).sum())
    return (
        f"{count:,} of {difference.numel():,} values differ, the most at {index}: "
        f"{float(published.flatten()[place]):.6g} in the folder, "
        f"{float(ours.flatten()[place]):.6g} in the checkpoint"
    )


def _compare(
    published: PublishedFolder, checkpoint: Path, report: Callable[[str], None]
) -> Iterator[Difference | None]:
    """Yield a difference, or None, for each tensor of either side."""
    folder, table = published.folder, published.table
    weights = MergedTensors(checkpoint, table)
    check_ours(str(checkpoint), weights.specs, table)
    progress = Progress("verify", sum(spec.nbytes for spec in folder.specs.values()), report)
    for entry in table.entries:
        weight = weights.read(entry.ours)
        if len(entry.published) == 1:  # without the padding rows of a vocabulary
            weight = weight[: entry.shapes[0][0]]
        for name, ours in zip(entry.published, entry.to_published(weight), strict=True):
            what = compare_tensors(folder.read(name), ours)
            yield Difference(name, entry.ours, what) if what else None
            progress.advance(folder.specs[name].nbytes)
    yield from _compare_carried(folder, checkpoint, table.carried)


def _compare_carried(
    folder: HfFolder, checkpoint: Path, names: Iterable[str]
) -> Iterator[Difference | None]:
    """Compare what influences no output."""
    path = checkpoint / CARRIED
    carried = WeightReader(path) if path.is_file() else WeightReader()
    for name in names:
        if name in folder.specs and name in carried.specs:
            what = compare_tensors(folder.read(name), carried.read(name))
            yield Difference(name, CARRIED, what) if what else None
        elif name in folder.specs or name in carried.specs:
            side = "folder" if name in folder.specs else "checkpoint"
            yield Difference(name, CARRIED, f"only in the {side} (it influences no output)")


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
