# SPDX-License-Identifier: Apache-2.0
"""A batch of text and pictures made from a seed, to compare the logits of two models on."""

import torch

from owl.config.run import ModelConfig
from owl.data.collate import collate
from owl.data.samples import EncodedSample, PackedBatch

# Tokens of a sample, and where its tiles' placeholders start: separate pictures, text only,
# adjacent pictures, one at the very start.
_SAMPLES = ((24, (3, 14)), (9, ()), (20, (5, 10)), (12, (0,)))


def make_probe(model: ModelConfig, seed: int) -> PackedBatch:
    """Make one pack of samples with random tokens and pixels.

    Args:
        model: for its vocabulary and tile size.
        seed: of tokens and pixels.
    """
    generator = torch.Generator().manual_seed(seed)
    side = model.vision_tower.image_size
    samples = [
        EncodedSample(
            key=f"probe{index}",
            source="probe",
            tokens=torch.randint(0, model.vocab_size, (length,), generator=generator),
            loss_weights=torch.ones(length),
            positions=torch.arange(length),
            tiles=torch.randint(
                0, 256, (len(offsets), 3, side, side), generator=generator, dtype=torch.uint8
            ),
            media_offset=list(offsets),
        )
        for index, (length, offsets) in enumerate(_SAMPLES)
    ]
    return collate(samples)
