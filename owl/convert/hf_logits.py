# SPDX-License-Identifier: Apache-2.0
"""Logits of a model for transformers on the samples of a pack."""

from typing import Any

import torch
from torch import Tensor

from owl.data.samples import PackedBatch


@torch.no_grad()
def hf_logits(model: Any, batch: PackedBatch) -> Tensor:
    """Run a model of owl.hf, sample by sample.

    Args:
        model: in inference mode.
        batch: t tokens of several samples.

    Returns:
        [t, vocabulary].
    """
    samples = []
    first = 0
    for tokens, offsets in zip(batch.tokens.split(batch.seqlens), batch.media_offset, strict=True):
        tiles = batch.pixel_values[first : first + len(offsets)]
        first += len(offsets)
        media = {"pixel_values": tiles, "media_offset": [offsets]} if offsets else {}
        samples.append(model(input_ids=tokens[None], use_cache=False, **media).logits[0])
    return torch.cat(samples)
