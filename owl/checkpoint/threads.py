# SPDX-License-Identifier: Apache-2.0
"""Several weights at a time: moving bytes is the system's work, which threads share well."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Event
from typing import TypeVar

T = TypeVar("T")
Result = TypeVar("Result")

CancelCheck = Callable[[], None]
"""Ends the thread that calls it where another has failed."""

THREADS = 4
"""Of a conversion. Whatever the machine, so that the same files come out on each."""


def shares(sizes: Mapping[T, int]) -> list[list[T]]:
    """Share things out over the threads: neighbours together, about as many bytes for each.

    Args:
        sizes: bytes of each thing.

    Returns:
        One list a thread, in order; a thread that is left without any has none.
    """
    total, before = max(1, sum(sizes.values())), 0
    lists: list[list[T]] = [[] for _ in range(THREADS)]
    for thing, nbytes in sizes.items():
        lists[min(THREADS - 1, before * THREADS // total)].append(thing)
        before += nbytes
    return [things for things in lists if things]


class _Stopped(Exception):
    """Ends a thread because another has failed."""


def in_threads(
    work: Callable[[int, Sequence[T], CancelCheck], Result], shared: Sequence[Sequence[T]]
) -> list[Result]:
    """Call `work` for each share, in a thread of its own.

    Args:
        work: gets the number of the share, what is in it, and a function to call before each step:
            that ends the thread where another has failed.
        shared: a share a thread.

    Returns:
        What each call returned, in the order of the shares.

    Raises:
        BaseException: the first error of a call, or an interrupt, once all threads have ended.
    """
    stop = Event()

    def raise_if_cancelled() -> None:
        if stop.is_set():
            raise _Stopped

    with ThreadPoolExecutor(max_workers=max(1, len(shared))) as pool:
        try:
            calls = [
                pool.submit(work, i, share, raise_if_cancelled) for i, share in enumerate(shared)
            ]
            for call in as_completed(calls):
                call.result()
        except BaseException:
            stop.set()
            raise
        return [call.result() for call in calls]
