# SPDX-License-Identifier: Apache-2.0
"""Liger's kernels compute norms and SwiGLU on a GPU, and are an error elsewhere.

What the kernels compute is tested by tests/gpu/test_liger.py: they run on a GPU alone.
"""

import sys

import pytest
import torch

from owl.hf.liger import set_kernels, use_liger
from tests.unit.families.owl3.hf.conftest import build
from tests.unit.families.owl3.hf.test_modeling_owl3 import inputs


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    with pytest.raises(ImportError, match="pip install liger-kernel"):
        use_liger(build("joint_softmax"))


def test_a_model_on_a_cpu_is_refused(monkeypatch):
    monkeypatch.setattr("owl.hf.liger._kernels", lambda: (None, None))
    with pytest.raises(ValueError, match=r"the decoder is on cpu.*model\.to\('cuda'\)"):
        use_liger(build("joint_softmax"))


def test_every_norm_and_mlp_of_the_decoder_calls_its_kernel():
    model, asked = build("joint_softmax"), {"norm": 0, "swiglu": 0}
    expected = model(**inputs()).logits

    def norm(hidden_states, weight, eps):
        asked["norm"] += 1
        return torch.nn.functional.rms_norm(hidden_states, weight.shape, weight, eps)

    def swiglu(gate, up):
        asked["swiglu"] += 1
        return torch.nn.functional.silu(gate) * up

    assert set_kernels(model, norm, swiglu) == 9 + 4  # two norms a layer and the last; one MLP
    torch.testing.assert_close(model(**inputs()).logits, expected)
    assert asked == {"norm": 9 + 2, "swiglu": 4}  # the tiles pass the norm of two hyper layers
