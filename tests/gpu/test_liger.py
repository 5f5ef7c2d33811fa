# SPDX-License-Identifier: Apache-2.0
"""Liger's norms and SwiGLU give the model's own logits and gradients."""

from copy import deepcopy

import pytest
import torch

from owl.hf.liger import use_liger
from tests.unit.families.owl3.hf.conftest import build
from tests.unit.families.owl3.hf.test_modeling_owl3 import inputs

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("fusion", ["token_gate", "static_gate", "joint_softmax"])
def test_logits_and_gradients_are_the_models_own(fusion):
    pytest.importorskip("liger_kernel")
    plain = build(fusion).cuda()
    liger = deepcopy(plain)
    use_liger(liger)
    batch = {
        name: value.cuda() if isinstance(value, torch.Tensor) else value
        for name, value in inputs().items()
    }
    expected, output = (network(**batch, labels=batch["input_ids"]) for network in (plain, liger))
    torch.testing.assert_close(output.logits, expected.logits, rtol=1e-4, atol=1e-4)
    expected.loss.backward()
    output.loss.backward()
    for (name, weight), same in zip(plain.named_parameters(), liger.parameters(), strict=True):
        if weight.grad is not None:
            torch.testing.assert_close(same.grad, weight.grad, rtol=1e-3, atol=1e-4, msg=name)
