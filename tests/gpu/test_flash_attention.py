# SPDX-License-Identifier: Apache-2.0
"""The flash-attn package, through transformers, next to torch's own attention in bfloat16."""

from copy import deepcopy

import pytest
import torch

from tests.unit.families.owl3.hf.conftest import build
from tests.unit.families.owl3.hf.test_generation_owl3 import batch

pytestmark = pytest.mark.gpu


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("fusion", ["token_gate", "static_gate", "joint_softmax"])
def test_padded_batches_get_the_logits_of_torchs_attention(fusion, side):
    pytest.importorskip("flash_attn")
    truth = build(fusion).double().cuda()
    plain = deepcopy(truth).bfloat16()
    flash = deepcopy(plain)
    flash.config._attn_implementation = "flash_attention_2"
    inputs = {
        name: value.cuda() if isinstance(value, torch.Tensor) else value
        for name, value in batch(side).items()
    }
    real = inputs["attention_mask"].bool()
    expected, usual, logits = (
        network(**inputs).logits[real].double() for network in (truth, plain, flash)
    )
    # As far from the truth as bfloat16 takes torch's own, and no further.
    assert (logits - expected).norm() < 1.5 * (usual - expected).norm()
