# SPDX-License-Identifier: Apache-2.0
"""TensorSpec: what is known of a stored tensor before it is read."""

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
        """Bytes that it takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def row_bytes(self) -> int:
        """Bytes of one row: of what one index into the first dimension gives."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize
