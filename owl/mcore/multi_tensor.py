# SPDX-License-Identifier: Apache-2.0
"""The gradient's norm and its clipping in a few kernels, where TE and apex are not installed.

megatron-core's replacements launch one kernel a tensor, and the norm's reads each tensor's result
back to the host: a wait for the device for every parameter. torch's foreach functions compute the
same numbers.
"""

from collections.abc import Sequence
from typing import Any

import torch
from megatron.core.optimizer import clip_grads, optimizer
from megatron.core.utils import local_multi_tensor_l2_norm, local_multi_tensor_scale
from torch import Tensor


def install() -> None:
    """Replace megatron-core's functions, unless TE's or apex's are in use. Safe to call twice."""
    if clip_grads.l2_norm_impl is local_multi_tensor_l2_norm:
        clip_grads.l2_norm_impl = l2_norm
    for module in (clip_grads, optimizer):
        if module.multi_tensor_scale_impl is local_multi_tensor_scale:
            module.multi_tensor_scale_impl = scale


def l2_norm(
    chunk_size: int, overflow: Tensor, tensors: Sequence[list[Tensor]], per_tensor: bool
) -> tuple[Tensor, None]:
    """Return the norm of all tensors together, [1] float32, with the arguments of apex's kernel."""
    norms = torch.stack(torch._foreach_norm(tensors[0]))
    return torch.linalg.vector_norm(norms).float()[None], None


def scale(chunk_size: int, overflow: Tensor, tensors: Sequence[list[Tensor]], factor: Any) -> None:
    """Write tensors[0] * factor to tensors[1], with the arguments of apex's kernel."""
    source, target = tensors
    if all(one is other for one, other in zip(source, target, strict=True)):
        torch._foreach_mul_(target, factor)
    else:
        torch._foreach_copy_(target, torch._foreach_mul(source, factor))
