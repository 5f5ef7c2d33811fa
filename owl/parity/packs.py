# SPDX-License-Identifier: Apache-2.0
"""Eight samples that ask hard questions of a layout, cut into packs in several ways.

Placeholders are five tokens, pictures are bytes, lengths and supervised tokens are uneven. The last
two samples have no picture, the last nothing to learn from either: over four data-parallel ranks,
one sees text only, and where packs are ragged, nothing to learn from.
"""

from enum import StrEnum
from itertools import accumulate, pairwise

import torch

from owl.config.run import ModelConfig
from owl.data.collate import collate
from owl.data.samples import EncodedSample, PackedBatch

PLACEHOLDER = 5

# (tokens, first placeholder of each tile, supervised from)
_SAMPLES = [
    (31, [4], 12),  # one picture, a long answer
    (47, [3, 9, 15, 21, 27], 44),  # a cut picture: grid and global view; a short answer
    (23, [0], 8),  # a picture first
    (38, [6, 11, 25], 30),  # two frames without a gap, then a picture after text
    (17, [12], 5),  # a picture last: its placeholder ends the sample
    (29, [2, 19], 0),  # a document: everything but placeholders is learned
    (26, [], 3),  # text only
    (13, [], 13),  # text only, nothing to learn
]


class Cut(StrEnum):
    """How the same samples become micro-batches."""

    singles = "singles"  # eight packs of one sample: the reference
    pairs = "pairs"
    ragged = "ragged"
    halves = "halves"
    one = "one"


_SAMPLES_OF_PACKS = {
    Cut.singles: (1,) * len(_SAMPLES),
    Cut.pairs: (2, 2, 2, 2),
    Cut.ragged: (1, 3, 3, 1),
    Cut.halves: (4, 4),
    Cut.one: (8,),
}


def make_samples(model: ModelConfig, seed: int) -> list[EncodedSample]:
    """Draw the eight samples' tokens and pictures."""
    generator = torch.Generator().manual_seed(seed)
    size = model.vision_tower.image_size
    return [
        _sample(index, length, offsets, learned_from, model.vocab_size, size, generator)
        for index, (length, offsets, learned_from) in enumerate(_SAMPLES)
    ]


def make_packs(model: ModelConfig, seed: int, cut: Cut) -> list[PackedBatch]:
    """Cut the samples into micro-batches, in order."""
    samples = make_samples(model, seed)
    ends = list(accumulate(_SAMPLES_OF_PACKS[cut]))
    return [collate(samples[start:end]) for start, end in pairwise([0, *ends])]


def _sample(
    index: int,
    length: int,
    offsets: list[int],
    learned_from: int,
    vocab_size: int,
    size: int,
    generator: torch.Generator,
) -> EncodedSample:
    weights = torch.zeros(length)
    weights[learned_from:] = 1.0
    for offset in offsets:
        weights[offset : offset + PLACEHOLDER] = 0.0
    if index == 5:
        weights *= torch.linspace(0.5, 2.0, length)  # weighted targets
    tiles = torch.randint(0, 256, (len(offsets), 3, size, size), generator=generator)
    return EncodedSample(
        key=f"parity/{index}",
        source="parity",
        tokens=torch.randint(0, vocab_size, (length,), generator=generator),
        loss_weights=weights,
        positions=torch.arange(length),
        tiles=tiles.to(torch.uint8),
        media_offset=offsets,
    )
