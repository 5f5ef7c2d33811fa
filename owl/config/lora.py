# SPDX-License-Identifier: Apache-2.0
"""The lora node: low-rank adapters (arXiv 2106.09685) beside frozen weights."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from owl.config.choices import LoraTarget, ModelPart
from owl.config.rules import outside, too_small
from owl.config.training import Trainable

_PARTS = {
    LoraTarget.media_kv: ModelPart.fusion,
    LoraTarget.tower: ModelPart.vision_tower,
    LoraTarget.projector: ModelPart.projector,
}  # and every other target is in the language model


@dataclass(kw_only=True)
class LoraConfig:
    """Low-rank adapters: `lora=all`, `lora=qv` or `lora=off`, on any experiment."""

    targets: list[LoraTarget] = field(default_factory=list)
    """Published projections that get a pair of matrices each; none switches LoRA off. With LoRA
    every weight of the model is frozen, whatever stage.trainable says, but for also_train."""
    rank: int = 8
    """Rows of A and columns of B."""
    alpha: float = 16.0
    """A pair adds alpha / rank x B A to its projection."""
    dropout: float = 0.0
    """Share of A's input that is set to zero in training."""
    also_train: list[ModelPart] = field(default_factory=list)
    """Parts without adapters that are trained completely: peft's modules_to_save."""

    @property
    def is_on(self) -> bool:
        """Whether anything gets an adapter."""
        return bool(self.targets)

    @property
    def scale(self) -> float:
        """Factor of B A."""
        return self.alpha / self.rank

    @property
    def parts(self) -> set[ModelPart]:
        """Parts that have adapters."""
        return {_PARTS.get(target, ModelPart.language_model) for target in self.targets}

    def trained_parts(self, trainable: Trainable) -> Trainable:
        """Return the parts whose own weights are trained: without adapters, those of the stage."""
        if not self.is_on:
            return trainable
        return Trainable(**{str(part): part in self.also_train for part in ModelPart})

    def learning_parts(self, trainable: Trainable) -> Trainable:
        """Return the parts in which anything is trained, adapters included."""
        return replace(self.trained_parts(trainable), **{str(part): True for part in self.parts})

    def counted_parts(self, trainable: Trainable) -> Trainable:
        """Return the parts to count operations by.

        Adapters have gradients pass down to the projector, and through the tower where it has some;
        frozen weights have no gradient of their own. The adapters' own operations, a share of about
        rank / width, are not counted.
        """
        parts = self.trained_parts(trainable)
        if not self.is_on:
            return parts
        tower = parts.vision_tower or LoraTarget.tower in self.targets
        return replace(parts, projector=True, vision_tower=tower)

    def adds_as(self, other: "LoraConfig") -> bool:
        """Whether both have the same adapters and add them alike; dropout may differ."""
        if not (self.is_on or other.is_on):
            return True
        return self._adds() == other._adds()

    def _adds(self) -> tuple[object, ...]:
        return set(self.targets), set(self.also_train), self.rank, self.alpha

    def problems(self) -> Iterator[str]:
        """Yield one problem for each setting that cannot work."""
        yield from too_small("lora.rank", self.rank, 1, "it counts rows of A; lora=off for none")
        if self.alpha <= 0:
            yield f"lora.alpha={self.alpha} must be above 0: adapters are scaled by alpha / rank."
        yield from outside(
            "lora.dropout", self.dropout, 0, 1, "it is the share of A's input that is left out"
        )
        for part in self.parts & set(self.also_train):
            yield (
                f"lora.also_train has {part}, but lora.targets has adapters in it: what they are "
                f"on is frozen. Remove one of the two."
            )
