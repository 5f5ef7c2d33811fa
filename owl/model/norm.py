# SPDX-License-Identifier: Apache-2.0
"""RMSNorm and LayerNorm with the constructor that megatron-core's specs call.

megatron-core's torch wrapper refuses sequence parallelism, and its fused norms need TE or apex.
"""

import torch
import torch.nn.functional as F
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn


def at_least_float32(tensor: Tensor) -> Tensor:
    """Lift half precision to float32; leave float32 and float64 alone."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def root_mean_square_normed(hidden_states: Tensor, eps: float) -> Tensor:
    """Divide [..., h] by its root mean square, in float32 or wider; cast back."""
    wide = at_least_float32(hidden_states)
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return normed.to(hidden_states.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm as in Qwen2: computed in float32, cast, then scaled."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        # Each rank of a tensor group then sees its rows only: Megatron adds the gradients up.
        self.weight.sequence_parallel = config.sequence_parallel

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalise the last dimension of [..., h]."""
        return self.weight * root_mean_square_normed(hidden_states, self.eps)


class LayerNorm(nn.Module):
    """Ordinary layer norm with weight and bias (SigLIP)."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        self.bias = nn.Parameter(torch.zeros(hidden_size, dtype=config.params_dtype))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalise the last dimension of [..., h]."""
        return F.layer_norm(hidden_states, self.weight.shape, self.weight, self.bias, self.eps)
