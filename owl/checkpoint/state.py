# SPDX-License-Identifier: Apache-2.0
"""TrainState: what a checkpoint stores besides weights and optimizer."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from owl.data.samples import Cursor


@dataclass
class TrainState:
    """The progress of training, in steps and in data."""

    step: int = 0
    consumed_tokens: int = 0  # text tokens over all ranks
    consumed_tiles: int = 0  # over all ranks
    skipped: dict[str, int] = field(default_factory=dict)  # error code -> samples, over all ranks
    cursor: Cursor = field(default_factory=Cursor)

    @property
    def consumed_samples(self) -> int:
        """Samples that the optimizer was trained on, as the data cursor counts them."""
        return self.cursor.samples_consumed

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)

    @classmethod
    def read(cls, checkpoint: Path) -> "TrainState":
        """Read the state from a checkpoint's folder."""
        return cls.from_dict(json.loads((checkpoint / "training.json").read_text()))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainState":
        """Build a state from what to_dict returned; other keys are ignored."""
        return cls(
            step=values["step"],
            consumed_tokens=values["consumed_tokens"],
            consumed_tiles=values["consumed_tiles"],
            skipped=dict(values["skipped"]),
            cursor=Cursor(**values["cursor"]),
        )
