# SPDX-License-Identifier: Apache-2.0
"""Packs for tests of the model: random tokens and tiles at chosen places."""

from collections.abc import Sequence

import torch
from hypothesis import strategies as st

from owl.data.collate import collate
from owl.data.samples import EncodedSample, PackedBatch

Place = tuple[int, list[int]]  # a sample's length, and the first placeholder token of its tiles

# Two tiles apart, text only, adjacent tiles (also the last token), a tile first, a tile last.
PLACES: list[Place] = [(7, [1, 4]), (3, []), (5, [2, 3, 4]), (4, [0]), (1, []), (2, [1])]


@st.composite
def places(draw: st.DrawFn) -> list[Place]:
    """Draw one to four samples of up to nine tokens, each with up to three tiles anywhere."""
    samples = []
    for length in draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)):
        offsets = draw(st.sets(st.integers(0, length - 1), max_size=3))
        samples.append((length, sorted(offsets)))
    return samples


def make_pack(
    samples: Sequence[Place], *, image_size: int = 28, vocab_size: int = 259
) -> PackedBatch:
    """Collate samples of random tokens, all of them supervised, and random tiles."""
    generator = torch.Generator().manual_seed(0)
    encoded = [
        EncodedSample(
            key=f"sample{index}",
            source="test",
            tokens=torch.randint(0, vocab_size, (length,), generator=generator),
            loss_weights=torch.ones(length),
            positions=torch.arange(length),
            tiles=torch.randint(
                0, 256, (len(offsets), 3, image_size, image_size), generator=generator
            ).to(torch.uint8),
            media_offset=offsets,
        )
        for index, (length, offsets) in enumerate(samples)
    ]
    return collate(encoded)
