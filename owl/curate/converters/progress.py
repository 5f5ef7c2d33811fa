# SPDX-License-Identifier: Apache-2.0
"""One line every few seconds: how far, how fast, how much time is left."""

import time
from collections.abc import Callable


class Progress:
    """Counts what is done and prints a line now and then.

    Args:
        total_bytes: size of all input files.
        tell: is called with each line.
        every_seconds: least time between two lines.
        clock: seconds; a test brings its own.
    """

    def __init__(
        self,
        total_bytes: int,
        tell: Callable[[str], None],
        *,
        every_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._tell = max(total_bytes, 1), tell
        self._every, self._clock = every_seconds, clock
        self._start = self._last = clock()
        self._bytes = self._kept_bytes = self._samples = self._rejects = 0

    def keep(self, source_bytes: int) -> None:
        """Note input that an earlier run had finished; it does not count for the speed."""
        self._kept_bytes += source_bytes

    def add(self, source_bytes: int, samples: int, rejects: int) -> None:
        """Note a finished batch."""
        self._bytes += source_bytes
        self._samples += samples
        self._rejects += rejects
        if self._clock() - self._last >= self._every:
            self.print_line()

    def print_line(self) -> None:
        """Print the current state."""
        self._last = self._clock()
        seconds = max(self._last - self._start, 1e-9)
        done = min(self._bytes + self._kept_bytes, self._total)
        self._tell(
            f"{100 * done // self._total:3d}% | {self._samples} samples | "
            f"{self._rejects} rejected | {self._samples / seconds:.0f} samples/s | "
            f"eta {self._eta(seconds, self._total - done)}"
        )

    def finish(self) -> None:
        """Print the last line, at 100%: bytes between records were never counted."""
        self._bytes = self._total - self._kept_bytes
        self.print_line()

    def _eta(self, seconds: float, left: int) -> str:
        if not left:
            return "0:00:00"
        if not self._bytes:
            return "?"
        minutes, rest = divmod(round(seconds * left / self._bytes), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{rest:02}"
