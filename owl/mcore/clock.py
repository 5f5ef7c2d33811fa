# SPDX-License-Identifier: Apache-2.0
"""Measure how long a device works between two points of the program."""

import time

import torch


class DeviceClock:
    """Measures on the device itself: a GPU runs behind the program that issues its work.

    Args:
        device: the device to measure.
    """

    def __init__(self, device: torch.device) -> None:
        self._marks: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        if device.type == "cuda":
            self._marks = (
                torch.cuda.Event(enable_timing=True),
                torch.cuda.Event(enable_timing=True),
            )
        self._begin = self._end = 0.0

    def start(self) -> None:
        """Start measuring."""
        self._begin = time.perf_counter()
        if self._marks:
            self._marks[0].record()

    def stop(self) -> None:
        """Stop measuring. Does not wait for the device."""
        self._end = time.perf_counter()
        if self._marks:
            self._marks[1].record()

    def seconds(self) -> float:
        """Return the seconds between start and stop; waits until a GPU has reached stop."""
        if self._marks:
            begin, end = self._marks
            end.synchronize()
            return begin.elapsed_time(end) / 1000
        return self._end - self._begin
