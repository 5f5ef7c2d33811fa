# SPDX-License-Identifier: Apache-2.0
"""The settings that only one model family has: one node of `model` for each family.

A family's node judges itself: `problems(num_layers=..., template=...)` yields a sentence for each
setting that cannot work. Only the node of `model.family` is asked, and read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Protocol

from owl.config.choices import FamilyKind
from owl.families.owl3.config import HyperAttentionConfig


class FamilyNode(Protocol):
    """The settings of one family."""

    def problems(self, *, num_layers: int, template: str) -> Iterator[str]:
        """Yield one sentence for each setting that cannot work.

        Args:
            num_layers: of the decoder.
            template: `model.template`.
        """
        ...


@dataclass(kw_only=True)
class FamilyNodes:
    """One node for each family; ModelConfig has them all."""

    family: FamilyKind = FamilyKind.owl3
    """Which family's layers, template and checkpoints these are."""
    hyper_attention: HyperAttentionConfig = field(
        default_factory=HyperAttentionConfig, metadata={"family": FamilyKind.owl3}
    )

    def family_problems(self, *, num_layers: int, template: str) -> Iterator[str]:
        """Yield the problems of this family's own settings."""
        for each in fields(self):
            if each.metadata.get("family") is self.family:
                node: FamilyNode = getattr(self, each.name)
                yield from node.problems(num_layers=num_layers, template=template)
