# SPDX-License-Identifier: Apache-2.0
"""The chunked loss on a GPU: torch's cross entropy, and the memory of one chunk."""

import pytest
import torch
import torch.nn.functional as F

from owl.model.loss import linear_cross_entropy

pytestmark = pytest.mark.gpu

ROWS, WIDTH, WORDS = 700, 256, 4099


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)], ids=["fp32", "bf16"]
)
@pytest.mark.parametrize("rows_per_chunk", [64, 1024])
def test_losses_and_gradients_are_those_of_float64(alone, dtype, tolerance, rows_per_chunk):
    torch.backends.cuda.matmul.allow_tf32 = False
    generator = torch.Generator().manual_seed(0)
    hidden_states = torch.randn(ROWS, WIDTH, generator=generator).to("cuda", dtype)
    weight = (torch.randn(WORDS, WIDTH, generator=generator) / 16).to("cuda", dtype)
    labels = torch.randint(0, WORDS - 3, (ROWS,), generator=generator).cuda()
    inputs = [hidden_states.requires_grad_(), weight.requires_grad_()]
    exact = [part.detach().double().requires_grad_() for part in inputs]

    losses = linear_cross_entropy(
        *inputs,
        labels,
        vocab_size=WORDS - 3,
        tp_group=alone.collection.tp,
        rows_per_chunk=rows_per_chunk,
    )

    truth = F.cross_entropy(exact[0] @ exact[1][:-3].t(), labels, reduction="none")
    mine = [losses, *torch.autograd.grad(losses.sum(), inputs)]
    theirs = [truth, *torch.autograd.grad(truth.sum(), exact)]
    for ours, right in zip(mine, theirs, strict=True):
        assert float((ours.double() - right).abs().max()) < tolerance * float(right.abs().max())


def test_no_more_than_a_chunk_of_logits_is_held(alone):
    rows, words, width, rows_per_chunk = 8192, 65536, 64, 256
    hidden_states = torch.randn(rows, width, device="cuda", requires_grad=True)
    weight = torch.randn(words, width, device="cuda")
    labels = torch.randint(0, words, (rows,), device="cuda")
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()

    linear_cross_entropy(
        hidden_states,
        weight,
        labels,
        vocab_size=words,
        tp_group=alone.collection.tp,
        rows_per_chunk=rows_per_chunk,
    ).sum().backward()

    held = torch.cuda.max_memory_allocated() - before
    assert held < 4 * (4 * rows_per_chunk * words) < 4 * rows * words
