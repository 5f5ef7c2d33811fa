# SPDX-License-Identifier: Apache-2.0
"""Weights in pieces and in threads: an error ends all of them, large pieces take turns."""

import time
from threading import Barrier, Event

import pytest
import torch

from owl.checkpoint.stream import CheckpointTensors, write_weights
from owl.checkpoint.tensor_spec import TensorSpec
from owl.checkpoint.threads import in_threads

ROWS = 4_000
SPECS = {name: TensorSpec((ROWS, 1), torch.float32) for name in ("first", "second")}


def test_an_error_ends_the_others_within_a_piece(tmp_path):
    met, written = Barrier(2, timeout=10), []

    def pieces(name):
        met.wait()
        if name == "second":
            raise OSError("no room")
        for row in range(ROWS):  # takes seconds, unless it is stopped
            time.sleep(0.001)
            written.append(row)
            yield row, torch.zeros(1, 1)

    with pytest.raises(OSError, match="no room"):
        write_weights(tmp_path, SPECS, pieces)
    assert len(written) < ROWS


@pytest.mark.parametrize(("large", "together"), [(ROWS * 4 - 1, False), (ROWS * 4, True)])
def test_of_large_pieces_one_is_in_memory(tmp_path, monkeypatch, large, together):
    write_weights(tmp_path, SPECS, lambda name: [(0, torch.ones(ROWS, 1))])
    monkeypatch.setattr("owl.checkpoint.stream.LARGE", large)
    tensors, inside, seen = CheckpointTensors(tmp_path), [], Event()

    def use(first, piece):
        inside.append(first)
        if len(inside) == 2:
            seen.set()
        seen.wait(timeout=10 if together else 0.3)
        inside.pop()

    in_threads(
        lambda number, names, raise_if_cancelled: [
            tensors.use_pieces(name, use, raise_if_cancelled) for name in names
        ],
        [["first"], ["second"]],
    )
    assert seen.is_set() == together
