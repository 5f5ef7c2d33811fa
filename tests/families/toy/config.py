# SPDX-License-Identifier: Apache-2.0
"""The toy family's own settings."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from owl.config.media_entry import Cross


@dataclass(kw_only=True)
class ToyConfig:
    """The decoder layers that see pictures."""

    layers: list[int] = field(default_factory=lambda: [1, 3])
    """Counted from 0."""

    @property
    def enters(self) -> Cross:
        """How media reach the decoder."""
        return Cross(tuple(self.layers), position_shift=1)

    def problems(self, *, num_layers: int, template: str) -> Iterator[str]:
        """Yield one sentence for each setting that cannot work."""
        if template != "toy":
            yield f"model.template={template} is no template of the toy family. Use toy."
