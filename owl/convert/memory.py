# SPDX-License-Identifier: Apache-2.0
"""How the process of a conversion treats its memory: what is freed is used again."""

import ctypes
import gc
import sys

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8


def tune_allocator() -> None:
    """Keep freed memory for the next tensor; call it once all is imported.

    glibc gives large blocks back to the kernel and asks for them again with each piece: three to
    six times as many fresh pages as a conversion needs, which virtual machines find slowly. And
    what the imports made stays: without this a full collection of garbage looks through it again,
    a quarter of a second each time. For the whole process, so for commands only. Other C libraries
    keep their habits.
    """
    gc.freeze()
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)  # or each thread would keep its own
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
