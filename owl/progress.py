# SPDX-License-Identifier: Apache-2.0
"""How far a long command is, and when it will be done: one line now and then."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO

SECONDS_BETWEEN_LINES = 5.0


@dataclass(slots=True)
class Progress:
    """Counts work and says so on standard error, where it does not mix with a command's result.

    Args:
        total: amount of work, in any unit that grows evenly with time (bytes rather than shards).
        verb: first word of each line.
        stream: where lines go.
        clock: seconds; only differences matter.
    """

    total: int
    verb: str
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic
    _begin: float = field(init=False)
    _spoken: float = field(init=False)
    _done: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._begin = self._spoken = self.clock()

    def add(self, amount: int, what: str) -> None:
        """Count work that is done; say so when the last line is long ago.

        Args:
            amount: in the unit of `total`.
            what: name of the thing that was finished.
        """
        self._done += amount
        now = self.clock()
        if now - self._spoken < SECONDS_BETWEEN_LINES:
            return
        self._spoken = now
        print(f"{self.verb} {self.describe(now)}, last {what}", file=self.stream, flush=True)

    def describe(self, now: float) -> str:
        """Write the share that is done and the time that is left."""
        share = self._done / self.total if self.total else 1.0
        left = (now - self._begin) * (1 - share) / share if share else 0.0
        return f"{share:.0%}, {duration(left)} left"


def duration(seconds: float) -> str:
    """Write a time the way people say it: 42 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
