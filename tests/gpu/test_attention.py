# SPDX-License-Identifier: Apache-2.0
"""GPU backends against the reference: text, media and joint attention, forward and backward."""

import pytest
import torch
from torch import Tensor

from owl.config.run import AttentionKind, ModelConfig, VisionTowerConfig
from owl.families.owl3.config import HyperAttentionConfig
from owl.model.attention.backend import AttentionBackend, attention_backend
from owl.model.attention.with_lse import CudaFlash, PlainAttention
from owl.model.media import PackContext, pack_context
from tests.unit.model.packs import Place, make_pack

pytestmark = pytest.mark.gpu

HEADS, KV_HEADS, HEAD_DIM = 8, 2, 64
# Several blocks of rows and of keys; tiles first, last, adjacent, past the end; text only; one row.
MIXED: list[Place] = [(300, [0, 120, 125]), (77, []), (190, [185]), (1, []), (260, [10, 11, 259])]
TEXT_ONLY: list[Place] = [(200, []), (90, [])]
# Largest difference, over the largest element of the truth. The truth is the reference in float64
# on the same (rounded) inputs; TF32 is off.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


def context(places: list[Place], shift: int) -> PackContext:
    model = ModelConfig(
        hidden_size=HEADS * HEAD_DIM,
        num_attention_heads=HEADS,
        num_kv_heads=KV_HEADS,
        hyper_attention=HyperAttentionConfig(media_position_shift=shift),
        vision_tower=VisionTowerConfig(image_size=378, patch_size=14),  # 729 patches, as published
    )
    batch = make_pack(places, image_size=14)  # the pictures are not looked at
    return pack_context(batch.to(torch.device("cuda")), model, torch.float32)


def heads_for(pack: PackContext, dtype: torch.dtype) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    tokens, patches = len(pack.position_ids), pack.patches * len(pack.media_position)
    counts = [(tokens, HEADS), *[(tokens, KV_HEADS)] * 2, *[(patches, KV_HEADS)] * 2]
    return tuple(
        torch.randn(*count, HEAD_DIM, generator=generator).to("cuda", dtype).requires_grad_()
        for count in counts
    )


def attend(
    backend: AttentionBackend, call: str, heads: tuple[Tensor, ...], pack: PackContext
) -> list[Tensor]:
    """The output, and the gradient of each input that takes part in it."""
    query, key, value, media_key, media_value = heads
    arguments = {
        "text": (query, key, value),
        "media": (query, media_key, media_value),
        "joint": heads,
    }[call]
    out = getattr(backend, call)(*arguments, pack)
    generator = torch.Generator().manual_seed(1)
    upstream = torch.randn(out.shape, generator=generator).to(out)
    if not out.requires_grad:
        return [out]
    gradients = torch.autograd.grad(
        out, arguments, upstream, allow_unused=True, materialize_grads=True
    )
    return [out, *gradients]


@pytest.fixture(autouse=True)
def _exact_products() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.mark.parametrize("kind", [AttentionKind.flex, AttentionKind.lse_merge], ids=str)
@pytest.mark.parametrize("call", ["text", "media", "joint"])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["fp32", "bf16"])
@pytest.mark.parametrize("places", [MIXED, TEXT_ONLY], ids=["mixed", "text only"])
@pytest.mark.parametrize("shift", [0, 1])
def test_a_backend_agrees_with_the_reference(kind, call, dtype, places, shift):
    pack = context(places, shift)
    heads = heads_for(pack, dtype)
    exact = tuple(part.detach().double().requires_grad_() for part in heads)

    actual = attend(attention_backend(kind), call, heads, pack)

    expected = attend(attention_backend(AttentionKind.reference), call, exact, pack)
    for mine, truth in zip(actual, expected, strict=False):
        assert mine.dtype == dtype
        assert mine.isfinite().all()
        scale = max(float(truth.abs().max()), 1e-6) if truth.numel() else 1.0
        off = float((mine.double() - truth).abs().max()) / scale if truth.numel() else 0.0
        assert off < TOLERANCE[dtype]


def test_flex_gives_zero_to_rows_that_see_no_tile():
    pack = context(MIXED, 1)
    heads = heads_for(pack, torch.bfloat16)

    out, grad_query, *_ = attend(attention_backend(AttentionKind.flex), "media", heads, pack)

    assert not out[~pack.sees_media].any()
    assert not grad_query[~pack.sees_media].any()


def test_flex_compiles_once_for_packs_of_nearly_the_same_length():
    flex = attention_backend(AttentionKind.flex)
    torch._dynamo.utils.counters.clear()
    for length in (500, 505, 512):
        pack = context([(length, [3])], 1)
        attend(flex, "media", heads_for(pack, torch.bfloat16), pack)

    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 1


@pytest.mark.parametrize("is_causal", [False, True])
def test_the_flash_kernel_gives_and_takes_the_log_sum_exp(is_causal):
    generator = torch.Generator().manual_seed(0)
    part = [
        torch.randn(200, heads, HEAD_DIM, generator=generator).to("cuda", torch.bfloat16)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    ]
    exact = [tensor.double() for tensor in part]
    upstream = torch.randn(200, HEADS, HEAD_DIM, generator=generator).to("cuda", torch.bfloat16)

    out, lse = CudaFlash.forward(*part, is_causal=is_causal)
    gradients = CudaFlash.backward(upstream, *part, out, lse, is_causal=is_causal)

    true_out, true_lse = PlainAttention.forward(*exact, is_causal=is_causal)
    truth = PlainAttention.backward(
        upstream.double(), *exact, true_out, true_lse, is_causal=is_causal
    )
    torch.testing.assert_close(lse.double(), true_lse, rtol=0, atol=1e-2)
    for mine, theirs in zip((out, *gradients), (true_out, *truth), strict=True):
        assert float((mine.double() - theirs).abs().max()) < 2e-2 * float(theirs.abs().max())
