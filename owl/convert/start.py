# SPDX-License-Identifier: Apache-2.0
"""Starting a model from pretrained parts: what the user chooses, and what a family provides."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from owl.config.run import ModelConfig


@dataclass(frozen=True, kw_only=True)
class InitOptions:
    """Choices of the user besides the folders; None takes the variant's published value."""

    variant: str
    layer_indices: list[int] | None = None  # hyper layers, counted from 0
    vocab_size: int | None = None  # embedding rows to keep
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
