# SPDX-License-Identifier: Apache-2.0
"""Attention in two parts, merged: kernels that show their log-sum-exp, and rectangles, no masks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from owl.config.run import AttentionKind
from owl.model.attention.backend import attention_backend
from owl.model.attention.staircase import media_steps
from owl.model.attention.with_lse import CpuFlash, PlainAttention, kernel_for
from tests.unit.model.packs import places
from tests.unit.model.test_attention import PATCHES, attend, context, heads_for

KERNELS = pytest.mark.parametrize("kernel", [CpuFlash, PlainAttention])


def make_part(*, tokens: int, keys: int) -> tuple[torch.Tensor, ...]:
    """Random query, key and value: two query heads on each of two key heads."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(tokens, 4, 8), (keys, 2, 8), (keys, 2, 8)]
    return tuple(torch.randn(*s, generator=generator, dtype=torch.float64) for s in shapes)


def plainly(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, is_causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and log-sum-exp through autograd's own operators."""
    key, value = (part.repeat_interleave(2, dim=1) for part in (key, value))
    scores = torch.einsum("tad,nad->tan", query, key) / 8**0.5
    if is_causal:
        later = torch.ones(len(query), len(key)).triu(1).bool()
        scores = scores.masked_fill(later[:, None], -torch.inf)
    return torch.einsum("tan,nad->tad", scores.softmax(-1), value), scores.logsumexp(-1)


@KERNELS
@pytest.mark.parametrize(("tokens", "keys", "is_causal"), [(5, 5, True), (3, 7, False)])
def test_a_kernel_gives_attention_its_log_sum_exp_and_its_gradients(
    kernel, tokens, keys, is_causal
):
    part = [tensor.requires_grad_() for tensor in make_part(tokens=tokens, keys=keys)]
    expected, expected_lse = plainly(*part, is_causal=is_causal)
    upstream = torch.randn_like(expected)

    with torch.no_grad():
        out, lse = kernel.forward(*part, is_causal=is_causal)
        gradients = kernel.backward(upstream, *part, out, lse, is_causal=is_causal)

    torch.testing.assert_close(out, expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(lse, expected_lse, rtol=0, atol=1e-14)
    for mine, theirs in zip(gradients, torch.autograd.grad(expected, part, upstream), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-14)


@KERNELS
def test_a_part_given_the_merged_output_has_its_share_of_the_gradient(kernel):
    query, key, value = (tensor.requires_grad_() for tensor in make_part(tokens=3, keys=6))
    whole, lse = plainly(query, key, value, is_causal=False)
    upstream = torch.randn_like(whole)
    expected = torch.autograd.grad(whole, [query, key, value], upstream)

    with torch.no_grad():
        first, second = (
            kernel.backward(upstream, query, key[keys], value[keys], whole, lse, is_causal=False)
            for keys in (slice(0, 2), slice(2, 6))
        )

    torch.testing.assert_close(first[0] + second[0], expected[0], rtol=0, atol=1e-14)
    for index in (1, 2):
        both = torch.cat([first[index], second[index]])
        torch.testing.assert_close(both, expected[index], rtol=0, atol=1e-14)


def test_a_cpu_has_its_flash_kernel():
    assert kernel_for(torch.empty(1)) is CpuFlash


@settings(max_examples=50)
@given(samples=places(), shift=st.integers(0, 1))
def test_the_steps_of_the_staircase_are_the_predicate(samples, shift):
    pack = context(samples, shift=shift)
    expanded = torch.zeros(len(pack.position_ids), PATCHES * len(pack.media_position))

    for view in pack.samples:
        for step in media_steps(view):
            expanded[step.rows, step.keys] += 1

    visible = pack.media_visibility().repeat_interleave(PATCHES, dim=1)
    assert torch.equal(expanded, visible.float())  # each pair once


def test_rows_without_a_tile_keep_their_text_bit_for_bit():
    samples = [(4, [2]), (3, [])]
    heads, pack = heads_for(samples), context(samples)
    merge = attention_backend(AttentionKind.lse_merge)

    joint = attend(merge, "joint", heads, pack)
    text = attend(
        merge, "joint", (*heads[:3], *(part[:0] for part in heads[3:])), context([(4, []), (3, [])])
    )

    assert pack.sees_media.tolist() == [False, False, False, True, False, False, False]
    assert torch.equal(joint[~pack.sees_media], text[~pack.sees_media])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_as_close_to_the_truth_as_one_softmax_does(dtype):
    samples = [(40, [2, 9, 17]), (25, [0])]
    pack = context(samples)
    truth = heads_for(samples)
    rounded = tuple(part.detach().to(dtype).requires_grad_() for part in truth)
    exact = tuple(part.detach().double().requires_grad_() for part in rounded)
    upstream = torch.randn(65, 4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)

    def distance(kind: AttentionKind) -> list[float]:
        backend, reference = (attention_backend(k) for k in (kind, AttentionKind.reference))
        out = attend(backend, "joint", rounded, pack)
        expected = attend(reference, "joint", exact, pack)
        mine = [out, *torch.autograd.grad(out, rounded, upstream)]
        theirs = [expected, *torch.autograd.grad(expected, exact, upstream.double())]
        return [
            float(((a - b).norm() / b.norm()).detach()) for a, b in zip(mine, theirs, strict=True)
        ]

    merged, joined = distance(AttentionKind.lse_merge), distance(AttentionKind.per_sample)

    for ours, one_softmax in zip(merged, joined, strict=True):
        assert ours < 1.5 * one_softmax
