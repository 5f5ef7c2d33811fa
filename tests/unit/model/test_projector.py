# SPDX-License-Identifier: Apache-2.0
"""The projectors are the published ones; the abstractor has tests of its own."""

import pytest
import torch
from torch import nn

from owl.config.run import ParallelConfig, Precision, ProjectorKind
from owl.mcore.transformer_config import decoder_config
from owl.model.projector import PROJECTORS
from tests.tiny_run import tiny_model

MODEL = tiny_model()
WIDTHS = MODEL.vision_tower.hidden_size, MODEL.hidden_size


@pytest.fixture
def build(alone):
    def build(kind: ProjectorKind) -> nn.Module:
        config = decoder_config(MODEL, ParallelConfig(), Precision.fp32)
        projector = PROJECTORS[kind](config, MODEL, alone.collection)
        for parameter in projector.parameters():
            nn.init.normal_(parameter)
        return projector

    return build


def test_the_linear_projector_is_one_linear_layer(build):
    projector = build(ProjectorKind.linear)
    published = nn.Linear(*WIDTHS)
    published.load_state_dict(projector.linear.state_dict())
    features = torch.randn(6, 1, WIDTHS[0])

    torch.testing.assert_close(projector(features), published(features))


def test_the_mlp_projector_has_an_exact_gelu_between_two_layers(build):
    projector = build(ProjectorKind.mlp)
    published = nn.Sequential(nn.Linear(*WIDTHS), nn.GELU(), nn.Linear(WIDTHS[1], WIDTHS[1]))
    ours = dict(projector.named_parameters())
    published.load_state_dict(
        {
            f"{place}.{kind}": ours[f"{name}.{kind}"]
            for place, name in [(0, "linear_fc1"), (2, "linear_fc2")]
            for kind in ("weight", "bias")
        }
    )
    features = torch.randn(6, 1, WIDTHS[0])

    torch.testing.assert_close(projector(features), published(features), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", list(ProjectorKind), ids=str)
def test_no_patches_give_an_empty_result_with_gradients_behind_it(build, kind):
    projector = build(kind)

    projected = projector(torch.empty(0, 1, WIDTHS[0]))
    projected.sum().backward()

    assert projected.shape == (0, 1, WIDTHS[1])
    assert all(not parameter.grad.any() for parameter in projector.parameters())
