# SPDX-License-Identifier: Apache-2.0
"""Attention kernels that also return each row's log-sum-exp, and take it back in the backward pass.

torch's public attention hides the log-sum-exp, and `varlen_attn`, which shows it, ignores its
gradient (torch 2.13). The operators below it take output and log-sum-exp as arguments of the
backward pass, which is what an exact merge of two parts needs (owl/model/attention/lse_merge.py).
"""

from typing import Protocol

import torch
from torch import Tensor

Gradients = tuple[Tensor, Tensor, Tensor]


class AttentionWithLse(Protocol):
    """Unmasked or causal attention of [t, a, d] queries to [n, k, d] keys; t = n where causal."""

    @staticmethod
    def forward(
        query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the output [t, a, d] and the log-sum-exp of the scores [t, a]."""
        ...

    @staticmethod
    def backward(
        grad_out: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        *,
        is_causal: bool,
    ) -> Gradients:
        """Return the gradients of query, key and value.

        `out` and `lse` may be those of a softmax over more keys than these: the gradients are then
        these keys' part, since both enter only as exp(score - lse) and as sum(grad_out * out).
        """
        ...


def kernel_for(query: Tensor) -> type[AttentionWithLse]:
    """Choose by device and number format."""
    if query.device.type == "cpu":
        return CpuFlash
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        return CudaFlash
    return PlainAttention


class CpuFlash:
    """torch's flash attention for CPUs: any float format, key heads repeated for grouped query."""

    @staticmethod
    def forward(
        query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool
    ) -> tuple[Tensor, Tensor]:
        """See AttentionWithLse."""
        heads = query.shape[1]
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *(_heads_first(_repeat(part, heads)) for part in (query, key, value)), 0.0, is_causal
        )
        return _rows_first(out), lse[0].t()

    @staticmethod
    def backward(
        grad_out: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        *,
        is_causal: bool,
    ) -> Gradients:
        """See AttentionWithLse."""
        heads, groups = query.shape[1], key.shape[1]
        gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            _heads_first(grad_out),
            *(_heads_first(_repeat(part, heads)) for part in (query, key, value)),
            _heads_first(out),
            lse.t()[None],
            0.0,
            is_causal,
        )
        grad_query, grad_key, grad_value = (_rows_first(gradient) for gradient in gradients)
        return grad_query, _sum_groups(grad_key, groups), _sum_groups(grad_value, groups)


class CudaFlash:
    """FlashAttention 2 as torch carries it: half precision, grouped query as it is."""

    @staticmethod
    def forward(
        query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool
    ) -> tuple[Tensor, Tensor]:
        """See AttentionWithLse."""
        out, lse, *_ = torch.ops.aten._flash_attention_forward(
            *(part[None] for part in (query, key, value)),
            *(None, None, len(query), len(key), 0.0, is_causal, False),
        )
        return out[0], lse[0].t()

    @staticmethod
    def backward(
        grad_out: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        *,
        is_causal: bool,
    ) -> Gradients:
        """See AttentionWithLse."""
        no_dropout = torch.zeros(2, dtype=torch.uint64, device=query.device)
        gradients = torch.ops.aten._flash_attention_backward(
            *(part[None].contiguous() for part in (grad_out, query, key, value, out)),
            lse.t()[None].contiguous(),
            *(None, None, len(query), len(key), 0.0, is_causal),
            no_dropout,
            no_dropout,
        )
        grad_query, grad_key, grad_value = (gradient[0] for gradient in gradients)
        return grad_query, grad_key, grad_value


class PlainAttention:
    """The formulas, for what has no kernel: float32 and float64 on a GPU. Holds all scores."""

    @staticmethod
    def forward(
        query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool
    ) -> tuple[Tensor, Tensor]:
        """See AttentionWithLse."""
        scores = _scores(query, key, is_causal)
        lse = scores.logsumexp(-1)
        weights = (scores - lse[..., None]).exp()
        out = torch.einsum("atn,nad->tad", weights, _repeat(value, query.shape[1]))
        return out, lse.t()

    @staticmethod
    def backward(
        grad_out: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        *,
        is_causal: bool,
    ) -> Gradients:
        """See AttentionWithLse."""
        heads, groups, scale = query.shape[1], key.shape[1], query.shape[-1] ** -0.5
        weights = (_scores(query, key, is_causal) - lse.t()[..., None]).exp()
        grad_weights = torch.einsum("tad,nad->atn", grad_out, _repeat(value, heads))
        delta = (grad_out * out).sum(-1).t()[..., None]
        grad_scores = weights * (grad_weights - delta) * scale
        return (
            torch.einsum("atn,nad->tad", grad_scores, _repeat(key, heads)),
            _sum_groups(torch.einsum("atn,tad->nad", grad_scores, query), groups),
            _sum_groups(torch.einsum("atn,tad->nad", weights, grad_out), groups),
        )


def _scores(query: Tensor, key: Tensor, is_causal: bool) -> Tensor:
    """[a, t, n] scaled products, minus infinity where a later token would be seen."""
    keys = _repeat(key, query.shape[1])
    scores = torch.einsum("tad,nad->atn", query, keys) * query.shape[-1] ** -0.5
    if is_causal:
        later = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return scores


def _repeat(part: Tensor, heads: int) -> Tensor:
    """Give every query head a key or value head of its own: [n, k, d] to [n, a, d]."""
    return part.repeat_interleave(heads // part.shape[1], dim=1) if part.shape[1] != heads else part


def _sum_groups(gradient: Tensor, groups: int) -> Tensor:
    """Undo _repeat for gradients: [n, a, d] to [n, k, d]."""
    return gradient.unflatten(1, (groups, -1)).sum(2)


def _heads_first(rows: Tensor) -> Tensor:
    """[t, a, d] to [1, a, t, d]."""
    return rows.transpose(0, 1)[None]


def _rows_first(heads: Tensor) -> Tensor:
    """[1, a, t, d] to [t, a, d]."""
    return heads[0].transpose(0, 1)
