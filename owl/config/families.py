# SPDX-License-Identifier: Apache-2.0
"""The settings that only one model family has: one node of `model` for each family.

Shared code asks `ModelConfig` and never a family by name: `problems` and `enters` are answered by
the node of `model.family`; the other nodes are not read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Protocol

from owl.config.choices import FamilyKind
from owl.config.media_entry import MediaEntry
from owl.families.owl1.config import Owl1Config
from owl.families.owl2.config import Owl2Config
from owl.families.owl3.config import HyperAttentionConfig


class FamilyNode(Protocol):
    """The settings of one family."""

    @property
    def enters(self) -> MediaEntry:
        """How media reach the decoder."""
        ...

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
    owl2: Owl2Config = field(default_factory=Owl2Config, metadata={"family": FamilyKind.owl2})
    owl1: Owl1Config = field(default_factory=Owl1Config, metadata={"family": FamilyKind.owl1})

    @property
    def node(self) -> FamilyNode:
        """The settings of this model's own family."""
        (name,) = (f.name for f in fields(self) if f.metadata.get("family") is self.family)
        node: FamilyNode = getattr(self, name)
        return node

    @property
    def enters(self) -> MediaEntry:
        """How media reach the decoder."""
        return self.node.enters
