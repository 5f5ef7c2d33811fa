# SPDX-License-Identifier: Apache-2.0
"""The watch counts real CPU tensors as it counts fake ones."""

import torch
from torch import nn

from owl.rehearse.watch import ALLOCATION, Watch

FLOATS = ALLOCATION // 4
"""Float32 numbers of one allocation."""


def test_the_peak_is_the_most_that_lives_at_once() -> None:
    watch = Watch("cpu")
    with watch:
        watch.start_step()
        one = torch.ones(FLOATS)
        two = one + 1
        del one
        three = two + 1  # two live, not three
        del two, three
    assert watch.record.peak == 2 * ALLOCATION
    assert watch.live == 0


def test_views_are_no_memory_and_no_kernel() -> None:
    watch = Watch("cpu")
    with watch:
        watch.start_step()
        base = torch.ones(4, FLOATS)
        base.view(-1).unsqueeze(0).transpose(0, 1)
    assert watch.record.peak == 4 * ALLOCATION
    assert sum(work.kernels for work in watch.record.work.values()) == 1


def test_the_backward_pass_is_attributed_to_the_part_that_made_it() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
    watch = Watch("cpu")
    watch.follow([model], {"0": "linear", "1": "tanh"}.get)
    with watch, watch.during("step"):
        watch.start_step()
        model(torch.ones(2, 8)).sum().backward()
    work = watch.record.work
    assert work["forward", "linear"].flops == 2 * 2 * 8 * 8
    assert work["backward", "linear"].matmuls == 1  # the input needs no gradient
    assert work["backward", "tanh"].kernels == 1
    assert ("forward", "tanh") in work


def test_a_number_read_back_is_a_wait_with_its_place() -> None:
    watch = Watch("cpu")
    with watch:
        watch.start_step()
        torch.ones(3).sum().item()
    (wait,) = watch.record.waits
    assert wait[1] == "_local_scalar_dense"


def test_expanded_tensors_are_read_once() -> None:
    watch = Watch("cpu")
    with watch:
        watch.start_step()
        row = torch.ones(1, FLOATS)
        watch.start_step()
        torch.neg(row.expand(10, FLOATS))
    (work,) = watch.record.work.values()
    assert work.moved_bytes == 4 * FLOATS * (1 + 10)
