# SPDX-License-Identifier: Apache-2.0
"""A batch of text and pictures made from a seed, to compare the logits of two models on."""

import torch

from owl.config.media_entry import Splice
from owl.config.run import ModelConfig
from owl.data.collate import collate
from owl.data.samples import EncodedSample, PackedBatch

# Tokens of a sample, and before which of them there is a picture: separate pictures, text only,
# adjacent pictures, one at the very start.
_SAMPLES = ((14, (3, 9)), (9, ()), (10, (5, 5)), (7, (0,)))
_PLACEHOLDERS = 5
"""Tokens that hold the place of a picture, where it is not as many vectors of the text."""


def make_probe(model: ModelConfig, seed: int) -> PackedBatch:
    """Make one pack of samples with random tokens and pixels.

    Args:
        model: for its vocabulary and tile size.
        seed: of tokens and pixels.
    """
    generator = torch.Generator().manual_seed(seed)
    side = model.vision_tower.image_size
    width = model.keys_per_tile if isinstance(model.enters, Splice) else _PLACEHOLDERS
    samples = []
    for index, (text, places) in enumerate(_SAMPLES):
        length = text + width * len(places)
        offsets = [place + width * number for number, place in enumerate(places)]
        sample = EncodedSample(
            key=f"probe{index}",
            source="probe",
            tokens=torch.randint(0, model.vocab_size, (length,), generator=generator),
            loss_weights=torch.ones(length),
            positions=torch.arange(length),
            tiles=torch.randint(
                0, 256, (len(offsets), 3, side, side), generator=generator, dtype=torch.uint8
            ),
            media_offset=offsets,
        )
        samples.append(sample)
    return collate(samples)
