# SPDX-License-Identifier: Apache-2.0
"""What one pipeline stage joins, the next one splits; gradients return the same way."""

import pytest
import torch

from owl.model.pipeline_wire import join, split

WIDTH = 3


@pytest.mark.parametrize("patches", [0, 4])
def test_the_next_stage_gets_what_this_one_sent(patches):
    hidden_states, media_features = torch.randn(5, 1, WIDTH), torch.randn(patches, 1, WIDTH)

    received = split(join(hidden_states, media_features), num_tokens=5)

    assert torch.equal(received[0], hidden_states)
    assert torch.equal(received[1], media_features)


def test_features_that_no_later_stage_looks_at_stay_behind():
    hidden_states = torch.randn(5, 1, WIDTH)

    received, media_features = split(join(hidden_states, None), num_tokens=5)

    assert torch.equal(received, hidden_states)
    assert media_features.shape == (0, 1, WIDTH)


def test_both_parts_get_their_own_gradient():
    hidden_states = torch.randn(5, 1, WIDTH, requires_grad=True)
    media_features = torch.randn(4, 1, WIDTH, requires_grad=True)

    text, media = split(join(hidden_states, media_features), num_tokens=5)
    (2 * text.sum() + 3 * media.sum()).backward()

    assert torch.equal(hidden_states.grad, torch.full_like(hidden_states, 2))
    assert torch.equal(media_features.grad, torch.full_like(media_features, 3))
