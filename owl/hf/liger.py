# SPDX-License-Identifier: Apache-2.0
"""Liger's Triton kernels for the decoder's norms and SwiGLU, for who asks for them."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from owl.families.owl3.hf.decoder_owl3 import Owl3MLP, Owl3RMSNorm
from owl.families.owl3.hf.modeling_owl3 import Owl3ForConditionalGeneration


def use_liger(model: Owl3ForConditionalGeneration) -> int:
    """Let a model on a GPU compute its norms and SwiGLU with Liger's kernels.

    Rotary positions and the loss stay as they are: tiles have positions of their own, and Liger's
    fused loss makes no logits.

    Args:
        model: changed in place; its weights are not.

    Returns:
        How many modules use a kernel now.

    Raises:
        ImportError: liger_kernel is not installed.
        ValueError: a part of the decoder is not on a GPU.
    """
    norm, swiglu = _kernels()
    weights = model.language_model.parameters()
    elsewhere = {str(weight.device) for weight in weights if not weight.is_cuda}
    if elsewhere:
        raise ValueError(
            f"use_liger: the decoder lies on {', '.join(sorted(elsewhere))}, and Liger's kernels "
            "run on a GPU alone. Move it there first: model.to('cuda')."
        )
    return set_kernels(model, norm, swiglu)


def set_kernels(
    model: Owl3ForConditionalGeneration,
    norm: Callable[[Tensor, Tensor, float], Tensor],
    swiglu: Callable[[Tensor, Tensor], Tensor],
) -> int:
    """Give each norm and MLP of the decoder its kernel; returns how many there are."""
    count = 0
    for module in model.language_model.modules():
        if isinstance(module, Owl3RMSNorm | Owl3MLP):
            module.kernel = norm if isinstance(module, Owl3RMSNorm) else swiglu
            count += 1
    return count


def _kernels() -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    try:
        from liger_kernel.transformers.functional import liger_rms_norm, liger_swiglu
    except ImportError as error:
        raise ImportError(
            "use_liger needs liger_kernel, which is not installed: pip install liger-kernel, or "
            "leave use_liger out."
        ) from error
    # Not in place: the features of the tiles pass through a norm in each hyper layer.
    return partial(_norm, liger_rms_norm), liger_swiglu


def _norm(
    kernel: Callable[..., Tensor], hidden_states: Tensor, weight: Tensor, eps: float
) -> Tensor:
    return kernel(hidden_states, weight, eps, offset=0.0, casting_mode="llama", in_place=False)
