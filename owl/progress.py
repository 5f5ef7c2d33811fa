# SPDX-License-Identifier: Apache-2.0
"""How far a long command is: a bar on a terminal, otherwise a line every few seconds."""

import sys
from collections.abc import Callable
from threading import RLock

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 5.0
_BYTES = "{desc} {percentage:.0f}% | {n_fmt}B of {total_fmt}B | {rate_noinv_fmt} | "
_OTHER = "{desc} {percentage:.0f}% | {n_fmt} of {total_fmt}{unit} | {rate_noinv_fmt} | "
_LEFT = "{remaining} left{postfix}"
_TOOK = "took {elapsed}{postfix}"


class Progress:
    """Counts bytes, or another unit, and shows them, with their speed and the time that is left.

    Threads may share one.

    Args:
        action: first word of each line, such as "import".
        total: bytes there are; the display ends when they are all done.
        report: gets a line every few seconds, and a last one. None: standard error, as a bar where
            that is a terminal, and without a last line after work too short for a first one.
        unit: what is counted, such as " questions".
    """

    def __init__(
        self,
        action: str,
        total: int,
        report: Callable[[str], None] | None = None,
        *,
        unit: str = "B",
    ) -> None:
        self._total, self._is_bar = total, report is None and sys.stderr.isatty()
        self._always_ends = report is not None
        self._done = _BYTES if unit == "B" else _OTHER
        lines = {
            "file": _Lines(report or _print),
            "bar_format": self._done + _LEFT,
            "mininterval": SECONDS_BETWEEN_LINES,
            "delay": 1e-9,  # no line at 0 %
            "leave": False,
        }
        # smoothing=0: the mean speed, which suits work that comes in large pieces.
        self._bar = _Bar(
            desc=action,
            total=total,
            unit=unit,
            unit_scale=unit == "B",
            smoothing=0,
            miniters=1,
            **({} if self._is_bar else lines),
        )

    def advance(self, amount: int, note: str = "") -> None:
        """Count bytes that are done.

        Args:
            amount: bytes since the last call.
            note: shown at the end of the line, such as counts of samples.
        """
        with _Bar.get_lock():
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            if self._bar.n + amount >= self._total:
                return self.finish()
            self._bar.update(amount)

    def skip(self, amount: int) -> None:
        """Count bytes that an earlier command finished: they do not enter the speed."""
        with _Bar.get_lock():
            self._bar.initial += amount
            self._bar.n += amount

    def finish(self) -> None:
        """Show everything as done, including bytes never counted. May be called again."""
        with _Bar.get_lock():
            if self._bar.disable:
                return
            self._bar.n = self._total
            has_begun = self._bar.last_print_t > self._bar.start_t
            if not self._is_bar and (self._always_ends or has_begun):
                self._bar.bar_format = self._done + _TOOK
                self._bar.refresh()
            self._bar.close()


def print_beside_progress(line: str) -> None:
    """Print a line to standard output without breaking a bar on the same terminal."""
    _Bar.write(line)
    sys.stdout.flush()


class _Bar(tqdm):
    """tqdm without its monitor thread, and with a lock between threads rather than processes."""

    monitor_interval = 0
    _lock = RLock()


class _Lines:
    """A stream that passes on each line that tqdm would draw."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report

    def write(self, text: str) -> None:
        line = text.strip()
        if line:
            self._report(line)

    def flush(self) -> None:
        pass


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
