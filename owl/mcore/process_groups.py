# SPDX-License-Identifier: Apache-2.0
"""Start and stop torch.distributed and Megatron's process groups."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from owl.config.run import DeviceKind, ParallelConfig
from owl.errors import ConfigError
from owl.mcore import cpu
from owl.mcore.version import check_version

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection


@dataclass(frozen=True, kw_only=True)
class ProcessGroups:
    """This process's place in the layout, and Megatron's collection of groups."""

    collection: "ProcessGroupCollection"
    solo: dist.ProcessGroup  # this rank alone, as a group
    device: torch.device
    rank: int
    world_size: int
    seed: int  # of the random start and of Megatron's random states

    @property
    def dp_rank(self) -> int:
        """Index of this rank's share of each global batch."""
        return self.collection.dp.rank()

    @property
    def dp_size(self) -> int:
        """Number of data-parallel shares."""
        return self.collection.dp.size()

    @property
    def tp_size(self) -> int:
        """Tensor-parallel degree."""
        return self.collection.tp.size()

    @property
    def pp_size(self) -> int:
        """Pipeline-parallel degree."""
        return self.collection.pp.size()

    @property
    def is_first_stage(self) -> bool:
        """Whether this rank embeds tokens and encodes pictures."""
        return self.collection.pp.rank() == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether this rank computes the loss."""
        return self.collection.pp.rank() == self.collection.pp.size() - 1

    @property
    def is_writer(self) -> bool:
        """Whether this rank writes logs and files that exist once."""
        return self.rank == 0


@contextmanager
def process_groups(
    parallel: ParallelConfig, *, seed: int = 1234, alone: bool = False
) -> Iterator[ProcessGroups]:
    """Join the job that torchrun started, or a job of one process, and leave it at the end.

    Args:
        parallel: degrees, device and backend.
        seed: of the random start, and of Megatron's per-rank random states.
        alone: a job of one process, even where torchrun started several.

    Yields:
        The groups. An exception inside ends the process group at once, so that the other ranks
        fail too instead of waiting for this one.
    """
    with job(parallel, alone=alone) as device, layout(parallel, device, seed=seed) as groups:
        yield groups


@contextmanager
def job(parallel: ParallelConfig, *, alone: bool = False) -> Iterator[torch.device]:
    """Start torch.distributed and leave it at the end; yields this process's device."""
    if parallel.device == DeviceKind.cpu:
        cpu.hide_gpus()
    check_version()
    # Tensor parallelism overlaps collectives with compute only with one connection per device.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    device = _choose_device(parallel.device)
    if device.type == "cpu":
        cpu.install()
    _start_distributed(parallel, device, alone=alone)
    try:
        yield device
    finally:
        dist.destroy_process_group()


@contextmanager
def layout(
    parallel: ParallelConfig, device: torch.device, *, seed: int = 1234
) -> Iterator[ProcessGroups]:
    """Create Megatron's groups in the running job, which may use several layouts in turn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from megatron.core import parallel_state, tensor_parallel
        from megatron.core.process_groups_config import ProcessGroupCollection

    virtual = parallel.virtual_pipeline
    before = _groups()
    try:
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=parallel.tensor,
            pipeline_model_parallel_size=parallel.pipeline,
            virtual_pipeline_model_parallel_size=virtual if virtual > 1 else None,
            distributed_timeout_minutes=max(1, round(parallel.timeout_minutes)),
            create_gloo_process_groups=False,
        )
        tensor_parallel.model_parallel_cuda_manual_seed(seed, force_reset_rng=True)
        yield ProcessGroups(
            collection=ProcessGroupCollection.use_mpu_process_groups(),
            solo=dist.new_group([dist.get_rank()], use_local_synchronization=True),
            device=device,
            rank=dist.get_rank(),
            world_size=dist.get_world_size(),
            seed=seed,
        )
    finally:
        parallel_state.destroy_model_parallel()  # does not destroy the groups
        for group in _groups() - before:
            # Each has threads that wake up a hundred times a second.
            dist.destroy_process_group(group)


def _groups() -> set[dist.ProcessGroup]:
    """Return all process groups of this process."""
    return set(dist.distributed_c10d._world.pg_map)


def world_size() -> int:
    """Return the number of processes in this job, from torchrun's WORLD_SIZE."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _choose_device(wanted: str) -> torch.device:
    """Choose this process's device: a GPU where there is one, unless the setting differs."""
    name = wanted if wanted != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if cpu.is_installed():
        raise ConfigError(
            f"parallel.device={name} is set in a process that has already run on the CPU, which "
            f"redirects megatron-core for good. Use parallel.device=cpu, or a new process."
        )
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def _start_distributed(parallel: ParallelConfig, device: torch.device, *, alone: bool) -> None:
    """Initialise torch.distributed from torchrun's environment, or as a group of one."""
    backend: str = parallel.backend
    if backend == "auto":
        backend = "nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(minutes=parallel.timeout_minutes)
    if not alone and "MASTER_ADDR" in os.environ and "RANK" in os.environ:
        dist.init_process_group(backend, timeout=timeout)
    else:
        dist.init_process_group(
            backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timeout
        )
