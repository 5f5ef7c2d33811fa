# SPDX-License-Identifier: Apache-2.0
"""One softmax over images and text from two attention calls, merged by their log-sum-exps.

With outputs O_i and log-sum-exps L_i of the image part and the text part of a row,

    L = log(exp L_image + exp L_text),    O = exp(L_image - L) O_image + exp(L_text - L) O_text

is attention over both. Backward, each part's kernel is given the *merged* O and L: its own
exp(score - L) are then the weights of the joint softmax, and sum(grad O * O) its common term, so
the gradients are exact and no gradient of L is needed (as in ring attention).

No mask is ever made: text is causal within a sample, and images form a staircase of rectangles.
"""

from typing import Any

import torch
from torch import Tensor

from owl.model.attention.per_sample import PerSampleAttention
from owl.model.attention.staircase import media_steps
from owl.model.attention.with_lse import kernel_for
from owl.model.media import PackContext


class LseMergeAttention(PerSampleAttention):
    """As per_sample, but `joint` neither joins keys nor builds masks."""

    def joint(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        media_key: Tensor,
        media_value: Tensor,
        pack: PackContext,
    ) -> Tensor:
        """Attend to visible patches and tokens under one softmax."""
        return _JointAttention.apply(query, key, value, media_key, media_value, pack)


class _JointAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        media_key: Tensor,
        media_value: Tensor,
        pack: PackContext,
    ) -> Tensor:
        kernel = kernel_for(query)
        out = torch.empty_like(query)
        lse = query.new_empty(query.shape[:2], dtype=_wide(query))  # [t, a]
        for view in pack.samples:
            own = view.rows
            out[own], lse[own] = kernel.forward(query[own], key[own], value[own], is_causal=True)
            for step in media_steps(view):
                seen = media_key[step.keys], media_value[step.keys]
                part = kernel.forward(query[step.rows], *seen, is_causal=False)
                _merge(out[step.rows], lse[step.rows], *part)
        ctx.save_for_backward(query, key, value, media_key, media_value, out, lse)
        ctx.pack = pack
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        query, key, value, media_key, media_value, out, lse = ctx.saved_tensors
        kernel = kernel_for(query)
        grad_query, grad_key, grad_value = map(torch.empty_like, (query, key, value))
        # Every later step of a sample adds to the gradient of a patch: not in half precision.
        grad_media_key, grad_media_value = (
            torch.zeros_like(part, dtype=_wide(part)) for part in (media_key, media_value)
        )
        for view in ctx.pack.samples:
            own = view.rows
            grad_query[own], grad_key[own], grad_value[own] = kernel.backward(
                grad_out[own], query[own], key[own], value[own], out[own], lse[own], is_causal=True
            )
            for step in media_steps(view):
                rows, keys = step.rows, step.keys
                of_query, of_key, of_value = kernel.backward(
                    *(grad_out[rows], query[rows], media_key[keys], media_value[keys]),
                    *(out[rows], lse[rows]),
                    is_causal=False,
                )
                grad_query[rows] += of_query
                grad_media_key[keys] += of_key
                grad_media_value[keys] += of_value
        media = grad_media_key.to(media_key.dtype), grad_media_value.to(media_value.dtype)
        return grad_query, grad_key, grad_value, *media, None


def _wide(tensor: Tensor) -> torch.dtype:
    """Name the format that sums are kept in: float32, or float64 if that is what there is."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _merge(out: Tensor, lse: Tensor, part_out: Tensor, part_lse: Tensor) -> None:
    """Merge another part into `out` [t, a, d] and `lse` [t, a], in place."""
    merged = torch.logaddexp(lse, part_lse)
    share, part_share = (lse - merged).exp()[..., None], (part_lse - merged).exp()[..., None]
    out.copy_(share * out + part_share * part_out)
    lse.copy_(merged)
