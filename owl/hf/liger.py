# SPDX-License-Identifier: Apache-2.0
"""Liger's Triton kernels for a decoder's norms and SwiGLU, on request."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from owl.portable.blocks_owl import OwlMLP, OwlRMSNorm


def use_liger(model: nn.Module) -> int:
    """Compute the norms and SwiGLU of a model on a GPU with Liger's kernels.

    Rotary positions and the loss stay torch's: tiles have their own positions, and Liger's fused
    loss computes no logits.

    Args:
        model: one of owl.hf; changed in place, except for its weights.

    Returns:
        How many modules use a kernel now.

    Raises:
        ImportError: liger_kernel is not installed.
        ValueError: one of these modules is not on a GPU.
    """
    norm, swiglu = _kernels()
    weights = [weight for module in _modules(model) for weight in module.parameters()]
    devices = {str(weight.device) for weight in weights if not weight.is_cuda}
    if devices:
        raise ValueError(
            f"use_liger: the decoder is on {', '.join(sorted(devices))}, and Liger's kernels run "
            "only on a GPU. Move it there first: model.to('cuda')."
        )
    return set_kernels(model, norm, swiglu)


def set_kernels(
    model: nn.Module,
    norm: Callable[[Tensor, Tensor, float], Tensor],
    swiglu: Callable[[Tensor, Tensor], Tensor],
) -> int:
    """Set the kernel of each norm and MLP of the decoder; returns how many there are."""
    modules = _modules(model)
    for module in modules:
        module.kernel = norm if isinstance(module, OwlRMSNorm) else swiglu
    return len(modules)


def _modules(model: nn.Module) -> list[OwlRMSNorm | OwlMLP]:
    return [module for module in model.modules() if isinstance(module, OwlRMSNorm | OwlMLP)]


def _kernels() -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    try:
        from liger_kernel.transformers.functional import liger_rms_norm, liger_swiglu
    except ImportError as error:
        raise ImportError(
            "use_liger needs liger_kernel, which is not installed: pip install liger-kernel, or "
            "remove the call."
        ) from error
    # Not in place: the features of the tiles pass through a norm in each hyper layer.
    return partial(_norm, liger_rms_norm), liger_swiglu


def _norm(
    kernel: Callable[..., Tensor], hidden_states: Tensor, weight: Tensor, eps: float
) -> Tensor:
    return kernel(hidden_states, weight, eps, offset=0.0, casting_mode="llama", in_place=False)
