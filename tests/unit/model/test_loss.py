# SPDX-License-Identifier: Apache-2.0
"""The chunked loss is torch's cross entropy, in value and in gradient."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from owl.model.loss import linear_cross_entropy

ROWS, WIDTH, VOCAB = 7, 5, 11


@pytest.fixture(scope="module")
def tp_group(alone):
    return alone.collection.tp


def make_inputs(*, rows=ROWS, vocab=VOCAB, dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    hidden_states = scale * torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocab, WIDTH, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, VOCAB, (rows,), generator=generator)
    return hidden_states.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), labels


def gradients(losses, *inputs):
    weights = torch.linspace(-1, 2, len(losses), dtype=losses.dtype)  # rows count unequally
    return torch.autograd.grad((losses * weights).sum(), inputs)


@pytest.mark.parametrize("rows_per_chunk", [1, 3, 7, 100])
def test_losses_and_gradients_are_those_of_torch_for_any_chunk_size(tp_group, rows_per_chunk):
    hidden_states, weight, labels = make_inputs()

    losses = linear_cross_entropy(
        hidden_states,
        weight,
        labels,
        vocab_size=VOCAB,
        tp_group=tp_group,
        rows_per_chunk=rows_per_chunk,
    )

    expected = F.cross_entropy(hidden_states @ weight.t(), labels, reduction="none")
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-13)
    mine, theirs = (gradients(out, hidden_states, weight) for out in (losses, expected))
    for actual, reference in zip(mine, theirs, strict=True):
        torch.testing.assert_close(actual, reference, rtol=0, atol=1e-13)


def test_padding_rows_of_the_vocabulary_take_no_part(tp_group):
    hidden_states, weight, labels = make_inputs(vocab=VOCAB + 3)

    losses = linear_cross_entropy(
        hidden_states, weight, labels, vocab_size=VOCAB, tp_group=tp_group
    )
    (gradient,) = gradients(losses, weight)

    expected = F.cross_entropy(hidden_states @ weight[:VOCAB].t(), labels, reduction="none")
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(gradient, *gradients(expected, weight), rtol=0, atol=1e-13)
    assert not gradient[VOCAB:].any()


def test_no_supervised_row_gives_no_loss_and_zero_gradients(tp_group):
    hidden_states, weight, labels = make_inputs(rows=0)

    losses = linear_cross_entropy(
        hidden_states, weight, labels, vocab_size=VOCAB, tp_group=tp_group
    )
    grad_hidden, grad_weight = gradients(losses, hidden_states, weight)

    assert losses.shape == (0,)
    assert grad_hidden.shape == (0, WIDTH)
    assert torch.equal(grad_weight, torch.zeros_like(weight))


def test_large_logits_do_not_overflow(tp_group):
    hidden_states, weight, labels = make_inputs(dtype=torch.float32, scale=1e4)

    losses = linear_cross_entropy(
        hidden_states, weight, labels, vocab_size=VOCAB, tp_group=tp_group
    )

    expected = F.cross_entropy(hidden_states @ weight.t(), labels, reduction="none")
    torch.testing.assert_close(losses, expected)
    assert all(gradient.isfinite().all() for gradient in gradients(losses, hidden_states, weight))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_float32_losses_and_gradients_of_its_own_dtype(tp_group, dtype):
    hidden_states, weight, labels = make_inputs(dtype=dtype)

    losses = linear_cross_entropy(
        hidden_states, weight, labels, vocab_size=VOCAB, tp_group=tp_group
    )
    expected = F.cross_entropy((hidden_states @ weight.t()).float(), labels, reduction="none")

    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, expected)
    for mine, theirs in zip(
        gradients(losses, hidden_states, weight),
        gradients(expected, hidden_states, weight),
        strict=True,
    ):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine, theirs, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_input_gets_no_gradient_and_the_other_keeps_its_own(tp_group, frozen):
    inputs = make_inputs()
    inputs[frozen].requires_grad_(False)
    learning = inputs[1 - frozen]

    losses = linear_cross_entropy(*inputs, vocab_size=VOCAB, tp_group=tp_group)

    expected = F.cross_entropy(inputs[0] @ inputs[1].t(), inputs[2], reduction="none")
    torch.testing.assert_close(
        gradients(losses, learning), gradients(expected, learning), rtol=0, atol=1e-13
    )


@settings(max_examples=30)
@given(
    supervised=st.lists(st.integers(0, VOCAB - 1), max_size=8),
    padding=st.integers(0, 3),
    rows_per_chunk=st.integers(1, 9),
)
def test_any_supervised_rows_in_any_chunks_give_torchs_loss(
    tp_group, supervised, padding, rows_per_chunk
):
    hidden_states, weight, _ = make_inputs(rows=len(supervised), vocab=VOCAB + padding)
    labels = torch.tensor(supervised, dtype=torch.int64)

    losses = linear_cross_entropy(
        hidden_states,
        weight,
        labels,
        vocab_size=VOCAB,
        tp_group=tp_group,
        rows_per_chunk=rows_per_chunk,
    )

    expected = F.cross_entropy(hidden_states @ weight[:VOCAB].t(), labels, reduction="none")
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-13)
    mine, theirs = (gradients(out, hidden_states, weight) for out in (losses, expected))
    for actual, reference in zip(mine, theirs, strict=True):
        torch.testing.assert_close(actual, reference, rtol=0, atol=1e-13)


def test_bfloat16_is_as_close_to_the_truth_as_a_dense_loss_in_bfloat16(tp_group):
    generator = torch.Generator().manual_seed(0)
    hidden_states = torch.randn(96, 64, generator=generator).bfloat16().requires_grad_()
    weight = (torch.randn(499, 64, generator=generator) / 8).bfloat16().requires_grad_()
    labels = torch.randint(0, 499, (96,), generator=generator)
    exact = [part.detach().double().requires_grad_() for part in (hidden_states, weight)]

    losses = linear_cross_entropy(
        hidden_states, weight, labels, vocab_size=499, tp_group=tp_group, rows_per_chunk=8
    )
    dense = F.cross_entropy((hidden_states @ weight.t()).float(), labels, reduction="none")
    truth = F.cross_entropy(exact[0] @ exact[1].t(), labels, reduction="none")

    true_gradients = gradients(truth, *exact)
    for mine, theirs, right in zip(
        (losses, *gradients(losses, hidden_states, weight)),
        (dense, *gradients(dense, hidden_states, weight)),
        (truth, *true_gradients),
        strict=True,
    ):
        # The hidden states' gradient sums up rounded products, one a chunk: a little further off.
        assert distance(mine, right) < 1.4 * distance(theirs, right)


def distance(ours, truth):
    return float(((ours.double() - truth).norm() / truth.norm()).detach())


def test_inputs_are_left_as_they_were(tp_group):
    hidden_states, weight, labels = make_inputs()
    before = hidden_states.detach().clone(), weight.detach().clone()

    losses = linear_cross_entropy(
        hidden_states, weight, labels, vocab_size=VOCAB, tp_group=tp_group
    )
    losses.sum().backward()

    assert torch.equal(hidden_states, before[0])
    assert torch.equal(weight, before[1])
