# SPDX-License-Identifier: Apache-2.0
"""Run a function in several processes on this machine, as torchrun would, and raise its errors."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from owl.errors import OwlError


def run_in_processes(function: Callable[..., None], processes: int, *arguments: Any) -> None:
    """Call `function(*arguments)` once in each of several processes that can form a job.

    The function and its arguments must be picklable. An exception in one process ends all of them
    and is raised here, with that process's traceback; an OwlError is printed there and raised here
    as SystemExit(2), and a SystemExit with its own status.

    Args:
        function: called without a rank: RANK and WORLD_SIZE are in its environment.
        processes: how many; with 1 it is called in this process.
        arguments: passed on.
    """
    if processes == 1:
        function(*arguments)
        return
    # Opened before the workers start: a port found free could be taken before they use it.
    store = dist.TCPStore("127.0.0.1", port=0, is_master=True, wait_for_workers=False)
    try:
        mp.start_processes(
            _worker,
            args=(processes, store.port, function, arguments),
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
        TORCHELASTIC_USE_AGENT_STORE="True",  # the store exists: rank 0 must not start one
    )
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        function(*arguments)
    except OwlError as error:
        print(f"[rank {rank}] {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None


def _end_with_parent() -> None:
    """Exit when the parent is killed: the SIGINT that torch sends is ignored in background jobs."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "started by torch.multiprocessing"
    parent.join()
    os._exit(1)
