# SPDX-License-Identifier: Apache-2.0
"""Weights are written and read in pieces, one of them in memory at a time."""

import weakref

import torch

from owl.checkpoint.stream import CheckpointTensors, write_weights
from owl.checkpoint.tensor_spec import TensorSpec

SPECS = {name: TensorSpec((6, 2), torch.float32) for name in ("first", "second")}


class Source:
    """Makes pieces of two rows and counts how many of them exist when it makes one."""

    def __init__(self) -> None:
        self.alive: set[int] = set()
        self.most = 0

    def pieces(self, name):
        for first in range(0, 6, 2):
            piece = torch.full((2, 2), float(first))
            key = id(piece)
            self.alive.add(key)
            self.most = max(self.most, len(self.alive))
            weakref.finalize(piece, self.alive.discard, key)
            yield first, piece
            del piece


def test_one_piece_is_in_memory_while_writing(tmp_path):
    source = Source()

    write_weights(tmp_path, SPECS, source.pieces)

    assert source.most == 1


def test_pieces_come_back_as_they_were_written(tmp_path):
    write_weights(tmp_path, SPECS, Source().pieces)

    tensors = CheckpointTensors(tmp_path)

    assert tensors.specs == SPECS
    pieces = list(tensors.pieces("second"))
    assert [first for first, _ in pieces] == [0, 2, 4]
    assert torch.equal(torch.cat([piece for _, piece in pieces]), tensors.read("second"))
    assert torch.equal(tensors.read("second")[:, 0], torch.tensor([0.0, 0, 2, 2, 4, 4]))
