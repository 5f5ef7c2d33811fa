# SPDX-License-Identifier: Apache-2.0
"""Encoded samples to one packed batch: concatenated, labels shifted, boundaries derived once.

The labels of a row are the *next* tokens. The shift happens here, sample by sample, so that the
last token of a sample never predicts the first of its neighbour.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from owl.data.samples import IGNORE_INDEX, EncodedSample, PackedBatch
from owl.errors import DataError


def collate(samples: Sequence[EncodedSample], *, with_pixels: bool = True) -> PackedBatch:
    """Concatenate samples to one row.

    Args:
        samples: at least one; those of several packs, when a micro-batch holds several.
        with_pixels: False on a rank that encodes no pictures. Its samples hold no tiles and
            pixel_values is [0, 3, s, s]; media_offset and all that is derived from it is complete.

    Raises:
        DataError: E405, a sample's tiles and placeholders do not belong together.
    """
    for sample in samples:
        check_media(sample, num_tiles=len(sample.tiles) if with_pixels else sample.num_tiles)
    seqlens = tuple(sample.num_tokens for sample in samples)
    media_offset = [list(sample.media_offset) for sample in samples]
    flat_offsets = [offset for offsets in media_offset for offset in offsets]
    batch = PackedBatch(
        tokens=torch.cat([sample.tokens for sample in samples]),
        labels=torch.cat([next_labels(sample) for sample in samples]),
        loss_weights=torch.cat([next_weights(sample) for sample in samples]),
        position_ids=torch.cat([sample.positions for sample in samples], dim=-1),
        cu_seqlens=cumulative(seqlens),
        pixel_values=torch.cat([sample.tiles for sample in samples]),
        flat_media_offset=torch.tensor(flat_offsets, dtype=torch.int64),
        cu_media=cumulative([len(offsets) for offsets in media_offset]),
        seqlens=seqlens,
        media_offset=media_offset,
        keys=tuple(sample.key for sample in samples),
    )
    batch.check()
    return batch


def next_weights(sample: EncodedSample) -> Tensor:
    """Weight of the token that each position predicts; nothing follows the last one.

    Returns:
        [t] float32.
    """
    return torch.cat([sample.loss_weights[1:], sample.loss_weights.new_zeros(1)])


def next_labels(sample: EncodedSample) -> Tensor:
    """Token that each position predicts, IGNORE_INDEX where that is not learned.

    Returns:
        [t] int64.
    """
    following = torch.cat([sample.tokens[1:], sample.tokens.new_zeros(1)])
    return following.where(next_weights(sample) > 0, IGNORE_INDEX)


def cumulative(counts: Sequence[int]) -> Tensor:
    """Boundaries of consecutive runs.

    Args:
        counts: n lengths.

    Returns:
        [n + 1] int32, from 0.
    """
    return torch.tensor([0, *counts]).cumsum(0).to(torch.int32)


def check_media(sample: EncodedSample, *, num_tiles: int) -> None:
    """Raise E405 unless each tile has its own placeholder, in order, inside the sample."""
    offsets = sample.media_offset
    if len(offsets) != num_tiles:
        raise DataError(
            "E405", f"{len(offsets)} media offsets for {num_tiles} tiles.", key=sample.key
        )
    increasing = all(early < late for early, late in pairwise(offsets))
    if not increasing or any(not 0 <= offset < sample.num_tokens for offset in offsets):
        raise DataError(
            "E405",
            f"media offsets {offsets} must increase and be within 0..{sample.num_tokens - 1}.",
            key=sample.key,
        )
