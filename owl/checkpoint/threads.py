# SPDX-License-Identifier: Apache-2.0
"""Several weights at a time: moving bytes is the system's work, which threads share well."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Event
from typing import TypeVar

T = TypeVar("T")
Result = TypeVar("Result")

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


def in_threads(
    work: Callable[[int, Iterator[T]], Result], shared: Sequence[Sequence[T]]
) -> list[Result]:
    """Call `work` with the number of a share and what is in it, each share in a thread.

    Returns:
        What each call returned, in the order of the shares.

    Raises:
        BaseException: the first error of a call, or an interrupt; the others then get nothing
            more, and have ended.
    """
    stop = Event()

    def until_stopped(share: Sequence[T]) -> Iterator[T]:
        for thing in share:
            if stop.is_set():
                return
            yield thing

    with ThreadPoolExecutor(max_workers=max(1, len(shared))) as pool:
        calls = [pool.submit(work, i, until_stopped(share)) for i, share in enumerate(shared)]
        try:
            for call in as_completed(calls):
                call.result()
        except BaseException:
            stop.set()
            raise
        return [call.result() for call in calls]
