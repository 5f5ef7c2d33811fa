# SPDX-License-Identifier: Apache-2.0
"""Joining a job and leaving it, also when something goes wrong."""

import os

import pytest
import torch
import torch.distributed as dist

from owl.config.run import DeviceKind, ParallelConfig
from owl.errors import ConfigError
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


@pytest.fixture
def gpu_machine(monkeypatch):
    """A machine with GPUs, as far as a process without one can tell: until it hides them."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(
        torch.cuda, "is_available", lambda: os.environ.get("CUDA_VISIBLE_DEVICES") is None
    )
    yield
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_who_chooses_the_cpu_of_a_gpu_machine_gets_it(gpu_machine):
    assert torch.cuda.is_available()

    with process_groups(ON_CPU, alone=True) as groups:
        assert groups.device == torch.device("cpu")

    assert not torch.cuda.is_available()


def test_a_process_that_worked_on_the_cpu_says_why_it_takes_no_gpu(gpu_machine):
    with process_groups(ON_CPU, alone=True):
        pass

    with (
        pytest.raises(ConfigError, match="a new process"),
        process_groups(ParallelConfig(device=DeviceKind.cuda), alone=True),
    ):
        pass
