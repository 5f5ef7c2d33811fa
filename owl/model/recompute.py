# SPDX-License-Identifier: Apache-2.0
"""Selective recompute: attention that keeps its inputs only."""

from collections.abc import Callable

from megatron.core import tensor_parallel
from megatron.core.transformer.attention import SelfAttention
from torch import Tensor


def attend_in(layer: SelfAttention, attend: Callable[..., Tensor], *heads: Tensor) -> Tensor:
    """Run a layer's attention on heads; recompute it in the backward pass if its config asks."""
    if layer.checkpoint_core_attention and layer.training:
        recomputed: Tensor = tensor_parallel.checkpoint(attend, False, *heads)
        return recomputed
    return attend(*heads)
