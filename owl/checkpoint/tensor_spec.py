# SPDX-License-Identifier: Apache-2.0
"""TensorSpec: the shape and number format of a stored tensor."""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TensorSpec:
    """Shape and number format of a tensor in a file."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def row_bytes(self) -> int:
        """Size in bytes of one row, which is one index of the first dimension."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize
