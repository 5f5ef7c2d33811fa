# SPDX-License-Identifier: Apache-2.0
"""Layouts to compare: a set in which every two values of different features meet at least once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any

from owl.config.run import (
    AttentionKind,
    DeviceKind,
    LoraConfig,
    LoraTarget,
    ParallelConfig,
    Recompute,
    Trainable,
    VisionParallelism,
)
from owl.model.small_model import LAYERS, SmallModel
from owl.parity.packs import Cut

Choice = Mapping[str, Any]

TRAINABLE = {
    "stage1": Trainable(vision_tower=False, projector=True, language_model=False, fusion=True),
    "stage2": Trainable(vision_tower=False, projector=True, language_model=True, fusion=True),
    "all": Trainable(vision_tower=True, projector=True, language_model=True, fusion=True),
    "lora": Trainable(vision_tower=False, projector=False, language_model=False, fusion=False),
}
LORA = {"lora": LoraConfig(targets=list(LoraTarget), rank=3, alpha=5.0)}
"""Adapters that a value of `learns` has besides; the others have none."""
PACKS = 4
"""That every cut of layouts makes: so many data-parallel ranks at most."""


@dataclass(frozen=True)
class Layout:
    """One way to train the parity model. The first value of each feature is the plain one."""

    tensor: int = 1
    rows: str = "full"  # or "shared": sequence parallelism
    pipeline: int = 1
    stages: str = "even"  # or "uneven", "interleaved"
    gradients: str = "plain"  # or "sharded", "overlapped"
    tower: VisionParallelism = VisionParallelism.tensor
    recompute: Recompute = Recompute.none
    attention: AttentionKind = AttentionKind.per_sample
    cut: Cut = Cut.singles
    learns: str = "all"  # key of TRAINABLE

    @property
    def name(self) -> str:
        """What differs from the plain run of one process, in one line."""
        words = [f"TP{self.tensor}", f"PP{self.pipeline}"]
        plain = Layout()
        for feature in ("rows", "stages", "gradients", "tower", "recompute", "attention", "cut"):
            value = getattr(self, feature)
            if value != getattr(plain, feature):
                words.append(_WORDS.get(str(value), str(value)))
        return " ".join([*words, self.learns])

    def parallel(self, device: DeviceKind) -> ParallelConfig:
        """Translate to the trainer's configuration."""
        uneven = self.stages == "uneven"
        return ParallelConfig(
            tensor=self.tensor,
            sequence=self.rows == "shared",
            pipeline=self.pipeline,
            virtual_pipeline=2 if self.stages == "interleaved" else 1,
            first_stage_layers=LAYERS // self.pipeline - 1 if uneven else None,
            last_stage_layers=LAYERS // self.pipeline + 1 if uneven else None,
            overlap_grad_reduce=self.gradients == "overlapped",
            overlap_param_gather=self.gradients == "overlapped",
            recompute=self.recompute,
            recompute_tower=self.recompute,
            device=device,
            timeout_minutes=2,
        )


_WORDS = {
    "shared": "SP",
    "sharded": "dist-opt",
    "overlapped": "overlap",
    "image": "image-parallel",
    "full": "recompute",
    "selective": "recompute-attention",
    "pairs": "packed",
}


def features(small: SmallModel, *, flex: bool = False) -> dict[str, list[Any]]:
    """List every feature and its values, for a variant.

    Args:
        small: the variant.
        flex: whether there is a GPU to run FlexAttention, and a number format it knows.
    """
    return {
        "tensor": [1, 2, 4],
        "rows": ["full", "shared"],
        "pipeline": [1, 2, 4],
        "stages": ["even", "uneven", "interleaved"],
        "gradients": ["plain", "sharded", "overlapped"],
        "tower": list(VisionParallelism),
        "recompute": list(Recompute),
        "attention": [*small.attention, *([AttentionKind.flex] if flex else [])],
        "cut": [Cut.pairs, Cut.ragged],  # of one sample each are the reference's
        "learns": list(TRAINABLE),
    }


def fits(choice: Choice, processes: int) -> bool:
    """Return whether a (possibly partial) choice fits this many processes."""
    full = {"tensor": 1, "pipeline": 1, "rows": "full", "stages": "even"} | dict(choice)
    ranks = full["tensor"] * full["pipeline"]
    micro_batches = PACKS // max(1, processes // ranks) if ranks <= processes else 0
    rules = (
        processes % ranks == 0,
        micro_batches > 0,
        full["rows"] == "full" or full["tensor"] > 1,
        full.get("tower") is not VisionParallelism.image or full["tensor"] > 1,
        full["stages"] == "even" or full["pipeline"] > 1,
        full["stages"] != "interleaved" or micro_batches % full["pipeline"] == 0,
    )
    return all(rules)


def covering(
    values: Mapping[str, Sequence[Any]],
    processes: int,
    *,
    together: int = 2,
    at_least: int = 24,
) -> list[Layout]:
    """Choose layouts until every combination of values that fits has met, and at least so many.

    Greedy: each layout takes the choice that covers the most combinations still open. The result is
    the same each time.

    Args:
        values: the features and their values.
        processes: of every layout.
        together: how many features' values have to meet: 2 for every pair, 1 for each value once.
        at_least: layouts to fill up to.
    """
    legal = [choice for choice in _all_choices(values) if fits(choice, processes)]
    met = [_meetings(each, processes, together) for each in legal]
    still_open = frozenset[Any]().union(*met)
    chosen: list[int] = []
    while still_open:
        best = max(range(len(legal)), key=lambda index: len(met[index] & still_open))
        still_open -= met[best]
        chosen.append(best)
    strides = (7919 * step % len(legal) for step in range(len(legal)))  # far apart: a prime
    spare = (index for index in strides if index not in chosen)
    while len(chosen) < at_least and (index := next(spare, None)) is not None:
        chosen.append(index)
    return [Layout(**legal[index]) for index in chosen]


def _meetings(choice: Choice, processes: int, together: int) -> frozenset[Any]:
    """Name what meets in a layout, the data-parallel ranks it leaves among them.

    What shares gradients out counts as itself only where there are ranks to share them with.
    """
    data = processes // (choice["tensor"] * choice["pipeline"])
    derived = {"data": data, "shared out": choice["gradients"] if data > 1 else "alone"}
    items = sorted((dict(choice) | derived).items())
    return frozenset(combinations(items, together))


def _all_choices(values: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    names = list(values)
    for combination in product(*values.values()):
        yield dict(zip(names, combination, strict=True))


@dataclass(frozen=True)
class Verdict:
    """How far a layout is from the run of one process, by kind of quantity."""

    worst: dict[str, float]
    where: dict[str, str]
    tolerance: dict[str, float]
    seconds: float = field(compare=False)

    @property
    def passes(self) -> bool:
        """Whether every difference is within tolerance (a NaN is not)."""
        return all(self.worst[kind] <= self.tolerance[kind] for kind in self.worst)
