# SPDX-License-Identifier: Apache-2.0
"""A forward pass without a cache is one graph: it compiles without a break, and is exported."""

import pytest
import torch

from tests.unit.families.owl3.hf.conftest import build

pytestmark = pytest.mark.slow  # each test traces the model


@pytest.fixture(params=["token_gate", "joint_softmax"])
def call(request):
    """A model, and two rows with a tile each, the first padded."""
    torch.manual_seed(0)
    mask = torch.ones(2, 9).long()
    mask[0, :2] = 0
    return build(request.param), {
        "input_ids": torch.randint(0, 256, (2, 9)),
        "attention_mask": mask,
        "pixel_values": torch.rand(2, 3, 28, 28),
        "media_offset": torch.tensor([[1], [3]]),
        "use_cache": False,
    }


@torch.no_grad()
def test_it_compiles_without_a_graph_break(call):
    model, inputs = call
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits)


@torch.no_grad()
def test_it_is_exported(call):
    model, inputs = call
    exported = torch.export.export(model, (), {**inputs, "return_dict": False}, strict=False)
    logits = exported.module()(**inputs, return_dict=False)[0]
    torch.testing.assert_close(logits, model(**inputs).logits)
