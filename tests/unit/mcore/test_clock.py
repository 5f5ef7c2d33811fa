# SPDX-License-Identifier: Apache-2.0
"""The clock measures the time between start and stop, whenever it is read."""

import time

import torch

from owl.mcore.clock import DeviceClock


def test_time_counts_from_start_to_stop_each_time_anew():
    clock = DeviceClock(torch.device("cpu"))
    for pause in (0.2, 0.01):
        clock.start()
        time.sleep(pause)
        clock.stop()
        time.sleep(0.05)
        # A busy machine may oversleep, but never wakes early.
        assert clock.seconds() >= pause
        assert clock.seconds() == clock.seconds()
    assert clock.seconds() < 0.2
