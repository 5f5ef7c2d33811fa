# SPDX-License-Identifier: Apache-2.0
"""What is dropped follows from the place in the data, not from what was drawn before."""

import torch
from megatron.core.tensor_parallel import get_cuda_rng_tracker

from owl.mcore.dropout import seed_dropout


def drawn(alone, packs_consumed: int) -> tuple[list[float], list[float]]:
    """Numbers from the state that a tensor group shares, and from this rank's own."""
    seed_dropout(alone, packs_consumed)
    shared = torch.rand(4).tolist()
    with get_cuda_rng_tracker().fork():
        own = torch.rand(4).tolist()
    return shared, own


def test_the_same_place_draws_the_same_whatever_was_drawn_before(alone):
    first = drawn(alone, 8)
    torch.rand(5)

    assert drawn(alone, 8) == first


def test_places_and_states_draw_differently(alone):
    numbers = [tuple(each) for place in (8, 12) for each in drawn(alone, place)]

    assert len(set(numbers)) == 4
