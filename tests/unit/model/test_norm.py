# SPDX-License-Identifier: Apache-2.0
"""The norms are those of Qwen2 and SigLIP, bit for bit where they can be."""

import pytest
import torch
from torch import nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from owl.config.run import ParallelConfig, Precision
from owl.mcore.transformer_config import DTYPES, decoder_config
from owl.model.norm import LayerNorm, RMSNorm
from tests.tiny_run import tiny_model

WIDTH, EPS = 32, 1e-5


def build(norm: type[nn.Module], precision: Precision) -> nn.Module:
    config = decoder_config(tiny_model(), ParallelConfig(), precision)
    module = norm(config, hidden_size=WIDTH, eps=EPS)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16, Precision.fp16], ids=str)
def test_rms_norm_is_that_of_qwen2_bit_for_bit(precision):
    ours, theirs = build(RMSNorm, precision), Qwen2RMSNorm(WIDTH, EPS).to(DTYPES[precision])
    theirs.load_state_dict(ours.state_dict())
    hidden_states = 5 * torch.randn(7, 1, WIDTH, dtype=DTYPES[precision])

    normed = ours(hidden_states)

    assert normed.dtype == DTYPES[precision]
    assert torch.equal(normed, theirs(hidden_states))


def test_rms_norm_keeps_float64():
    norm = build(RMSNorm, Precision.fp64)
    hidden_states = torch.randn(3, WIDTH, dtype=torch.float64)

    expected = nn.functional.rms_norm(hidden_states, (WIDTH,), norm.weight, EPS)

    torch.testing.assert_close(norm(hidden_states), expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16], ids=str)
def test_layer_norm_is_that_of_torch(precision):
    ours = build(LayerNorm, precision)
    theirs = nn.LayerNorm(WIDTH, EPS, dtype=DTYPES[precision])
    theirs.load_state_dict(ours.state_dict())
    hidden_states = torch.randn(3, 2, WIDTH, dtype=DTYPES[precision])

    assert torch.equal(ours(hidden_states), theirs(hidden_states))


@pytest.mark.parametrize("norm", [RMSNorm, LayerNorm])
def test_a_fresh_norm_scales_by_one(norm):
    config = decoder_config(tiny_model(), ParallelConfig(), Precision.fp32)

    state = norm(config, hidden_size=WIDTH).state_dict()

    assert torch.equal(state["weight"], torch.ones(WIDTH))
    assert not state.get("bias", torch.zeros(1)).any()
