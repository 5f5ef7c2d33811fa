# SPDX-License-Identifier: Apache-2.0
"""Starting a model from pretrained parts: what the user chooses, and what a family provides."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from owl.config.run import AbstractorConfig, ModelConfig
from owl.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class InitOptions:
    """Choices of the user besides the folders; None takes the variant's published value."""

    variant: str
    layer_indices: list[int] | None = None  # hyper layers, counted from 0
    vocab_size: int | None = None  # embedding rows to keep
    image_size: int | None = None  # side of a tile; the vision model's own when None
    abstractor: AbstractorConfig | None = None  # sizes of what the vision model's features meet
    name: str = "owl3"
    seed: int = 1234


class Start(Protocol):
    """Pretrained parts that read like one published checkpoint."""

    @property
    def model(self) -> ModelConfig:
        """The architecture that the parts make."""
        ...

    def has(self, published: str) -> bool:
        """Whether `read` can return this carried tensor."""
        ...

    def read(self, published: str) -> Tensor:
        """Read or derive a tensor by its published name, in its published shape.

        Raises:
            CheckpointError: the folders do not contain it, or it is too small.
        """
        ...

    def is_random(self, ours: str) -> bool:
        """Whether no part has this training weight, so that it keeps its random initial values."""
        ...


def keep_rows(table: Tensor, rows: int, folder: Path) -> Tensor:
    """Keep the first rows of a vocabulary's table, which may have more than there are tokens.

    Raises:
        CheckpointError: the table has fewer.
    """
    if len(table) < rows:
        raise CheckpointError(
            f"--vocab-size {rows} is more than the {len(table)} rows of {folder}'s embedding. Give "
            f"at most {len(table)}."
        )
    return table[:rows]
