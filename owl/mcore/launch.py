# SPDX-License-Identifier: Apache-2.0
"""Run a function in several processes on this machine, as torchrun would, and bring errors home."""

import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing as mp

from owl.errors import OwlError


def run_in_processes(function: Callable[..., None], processes: int, *arguments: Any) -> None:
    """Call `function(*arguments)` once in each of several processes that can form a job.

    The function and its arguments must be picklable. An exception in one process ends all of them
    and is raised here, with that process's traceback; an OwlError is told and ends with status 2,
    and a SystemExit there is one here.

    Args:
        function: called without a rank: it finds RANK and WORLD_SIZE in its environment.
        processes: how many; with 1 it is called right here.
        arguments: passed on.
    """
    if processes == 1:
        function(*arguments)
        return
    try:
        mp.start_processes(
            _worker,
            args=(processes, _free_port(), function, arguments),
            nprocs=processes,
            start_method="spawn",
        )
    except mp.ProcessExitedException as ended:
        raise SystemExit(ended.exit_code) from None


def _worker(
    rank: int, processes: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(processes),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    try:
        function(*arguments)
    except OwlError as error:
        print(f"[rank {rank}] {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
