# SPDX-License-Identifier: Apache-2.0
"""Joining a job and leaving it, also when something goes wrong."""

import pytest
import torch
import torch.distributed as dist

from owl.config.run import DeviceKind, ParallelConfig
from owl.mcore.process_groups import process_groups, world_size

ON_CPU = ParallelConfig(device=DeviceKind.cpu)


def test_a_job_of_one_is_every_stage_and_writes():
    with process_groups(ON_CPU, alone=True) as groups:
        sizes = groups.world_size, groups.dp_size, groups.tp_size, groups.pp_size
        place = groups.is_first_stage, groups.is_last_stage, groups.is_writer

    assert sizes == (1, 1, 1, 1)
    assert place == (True, True, True)
    assert groups.device == torch.device("cpu")


def test_alone_ignores_the_job_that_torchrun_started(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")

    with process_groups(ON_CPU, alone=True) as groups:
        assert (groups.rank, groups.world_size) == (0, 1)
    assert world_size() == 2


def test_an_error_inside_leaves_the_job_so_that_another_can_start():
    with pytest.raises(ZeroDivisionError), process_groups(ON_CPU, alone=True):
        raise ZeroDivisionError

    assert not dist.is_initialized()
    with process_groups(ON_CPU, alone=True) as groups:
        assert groups.world_size == 1


def test_a_layout_that_does_not_fit_leaves_the_job_too():
    too_many = ParallelConfig(device=DeviceKind.cpu, tensor=2)

    with pytest.raises(RuntimeError), process_groups(too_many, alone=True):
        pass

    assert not dist.is_initialized()


def test_the_seed_decides_megatrons_random_states():
    from megatron.core.tensor_parallel import get_cuda_rng_tracker

    def draw(seed: int) -> list[float]:
        with process_groups(ON_CPU, seed=seed, alone=True), get_cuda_rng_tracker().fork():
            return torch.rand(3).tolist()

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
