# SPDX-License-Identifier: Apache-2.0
"""How far a conversion is, in bytes, and when it will be done."""

import time
from collections.abc import Callable
from threading import Lock

from owl.logging import duration

_SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Says a line now and then while bytes go by.

    Args:
        action: what is being done, for the line: "import".
        total: bytes there are.
        report: gets each line.
        clock: seconds, from anywhere.
    """

    def __init__(
        self,
        action: str,
        total: int,
        report: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._action, self._total, self._report, self._clock = action, total, report, clock
        self._done = 0
        self._lock = Lock()
        self._start = self._last = clock()

    def advance(self, nbytes: int) -> None:
        """Count bytes that are done; says a line every few seconds, and at the end.

        Threads may call it as they like.
        """
        with self._lock:
            self._advance(nbytes)

    def _advance(self, nbytes: int) -> None:
        self._done += nbytes
        now = self._clock()
        if self._done < self._total and now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        seconds = max(now - self._start, 1e-9)
        left = (self._total - self._done) / self._done * seconds if self._done else 0.0
        end = f"eta {duration(left)}" if left else f"took {duration(seconds)}"
        self._report(
            f"{self._action} {self._done / max(self._total, 1):.0%} | {_size(self._done)} of "
            f"{_size(self._total)} | {_size(round(self._done / seconds))}/s | {end}"
        )


def _size(nbytes: int) -> str:
    """Write bytes with three digits at most: 16.1 GB, 410 MB."""
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if nbytes >= size:
            return f"{nbytes / size:.3g} {unit}"
    return f"{nbytes} B"
