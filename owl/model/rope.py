# SPDX-License-Identifier: Apache-2.0
"""Rotary positions: of text tokens, and of tiles (MI-RoPE: all patches of a tile share one)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from owl.model.norm import at_least_float32


@dataclass(frozen=True, slots=True)
class Rotary:
    """Cosines and sines of some positions, each [n, d]."""

    cos: Tensor
    sin: Tensor

    def repeat(self, times: int) -> "Rotary":
        """Give each position `times` rows in a row: a tile's position to each of its patches."""
        return Rotary(
            self.cos.repeat_interleave(times, dim=0), self.sin.repeat_interleave(times, dim=0)
        )


def rotary(positions: Tensor, *, head_dim: int, theta: float, dtype: torch.dtype) -> Rotary:
    """Compute the angles of positions.

    Args:
        positions: [n] int64.
        head_dim: d, even.
        theta: base of the frequencies (1e6 in Qwen2).
        dtype: of the model. Angles are float32 or wider whatever it is: bfloat16 keeps 8
            significant bits, so positions above 256 would collide.
    """
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    # Frequencies in float32 also for float64 models: these are the numbers that the published
    # code uses, and a parity test must not differ by them.
    exponents = torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim
    frequencies = (1.0 / theta**exponents).to(wide)
    angles = positions.to(wide)[:, None] * frequencies[None, :]
    angles = torch.cat([angles, angles], dim=-1)
    return Rotary(angles.cos(), angles.sin())


def rotate(heads: Tensor, table: Rotary) -> Tensor:
    """Rotate head vectors by their positions, half against half as in Qwen2.

    Args:
        heads: [n, a, d] queries or keys.
        table: of n positions.

    Returns:
        [n, a, d], computed in float32 or wider, in the dtype of `heads`.
    """
    wide = at_least_float32(heads)
    first, second = wide.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (wide * table.cos[:, None] + turned * table.sin[:, None]).to(heads.dtype)
