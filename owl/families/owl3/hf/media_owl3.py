# SPDX-License-Identifier: Apache-2.0
"""The pictures of a batch for the decoder: their positions, features, keys and values.

Letters: b rows, n samples (b is a multiple of n: beams share their sample's pictures), m tiles in
the batch, M most tiles of a sample, p patches of a tile, h hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from owl.portable.rotary_owl import move

ABSENT = 2**31 - 1
"""Position of the padding after a sample's last tile: beyond every token."""

KeyValue = tuple[Tensor, Tensor]
"""[b, k, M * p, d] each."""
Offsets = Sequence[Tensor | Sequence[int] | None] | Tensor | None
"""media_offset in either published form; see read_offsets."""


@dataclass(frozen=True)
class Media:
    """The tiles of each row, padded to the row with most tiles."""

    position: Tensor  # [b, M] int64, within the sample: token t sees a tile when t >= its position
    patches: int  # p
    features: Tensor | None  # [b, M * p, h] projected; None once every hyper layer has cached keys
    cache: dict[int, KeyValue] | None = None
    """Keys and values by layer, filled as layers run; None recomputes them each time."""

    def visible(self, position_ids: Tensor) -> Tensor:
        """Compute which patches each token sees: [b, q] positions to [b, 1, q, M * p] bool."""
        reached = position_ids[:, :, None] >= self.position[:, None, :]
        return reached.repeat_interleave(self.patches, dim=2)[:, None]

    def without_features(self) -> "Media":
        """Drop the features if every layer has cached keys and values."""
        return self if self.cache is None else replace(self, features=None)

    def to(self, device: torch.device, non_blocking: bool = False) -> "Media":
        """Move position and features; cached keys stay on the devices of their layers."""
        return self if self.position.device == device else move(self, device, non_blocking)


def place_tiles(
    features: Tensor,
    offsets: Sequence[Sequence[int]] | Tensor,
    *,
    rows: int,
    shift: int,
    keep: bool,
) -> Media | None:
    """Arrange tiles by the rows of a batch.

    Args:
        features: [m, p, h] of all tiles, sample after sample.
        offsets: for each sample, the index of each tile's first placeholder within it; a tensor
            [n, M] if all samples have the same number.
        rows: b.
        shift: the variant's media_position_shift.
        keep: whether layers cache their keys and values.

    Returns:
        None if no sample has a tile.

    Raises:
        ValueError: the numbers of rows, offsets and tiles do not fit together.
    """
    # A tensor's values are not read, so that a graph may be traced with it.
    counts = [len(sample) for sample in offsets]
    if sum(counts) != len(features):
        raise ValueError(
            f"pixel_values holds {len(features)} tiles but media_offset lists {sum(counts)} "
            f"({counts} by sample). Pass both as the processor returned them."
        )
    if not counts or rows % len(counts):
        raise ValueError(
            f"media_offset lists {len(offsets)} samples for {rows} rows of input_ids. Give one "
            "list per row, empty for a row without pictures."
        )
    most = max(counts)
    if not most:
        return None
    if isinstance(offsets, Tensor):
        position, padded = offsets.long() + shift, features.unflatten(0, (-1, most))
    else:
        position, padded = _padded(features, offsets, shift)
    times = rows // len(offsets)
    return Media(
        position=position.to(features.device).repeat_interleave(times, dim=0),
        patches=features.shape[1],
        features=padded.flatten(1, 2).repeat_interleave(times, dim=0),
        cache={} if keep else None,
    )


def _padded(
    features: Tensor, offsets: Sequence[Sequence[int]], shift: int
) -> tuple[Tensor, Tensor]:
    """Pad positions to [n, M], and features to [n, M, p, h]."""
    counts = [len(sample) for sample in offsets]
    position = torch.full((len(offsets), max(counts)), ABSENT)
    sample, slot = _places(counts)
    flat = [offset + shift for offsets_of_one in offsets for offset in offsets_of_one]
    position[sample, slot] = torch.tensor(flat)
    padded = features.new_zeros(*position.shape, *features.shape[1:])
    places = (sample.to(features.device), slot.to(features.device))
    return position, padded.index_put(places, features)


def _places(counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Compute sample and slot of each tile, [m] each."""
    sample = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    slot = torch.cat([torch.arange(count) for count in counts])
    return sample, slot


def read_offsets(media_offset: Offsets, attention_mask: Tensor | None) -> list[list[int]] | Tensor:
    """Convert either published form of media_offset to positions within each sample.

    Args:
        media_offset: a list with the positions of each sample's tiles (241101, Owl3Processor), or
            the [n, t, 2] ranges of 240728 and 241014, which count tokens of the padded batch;
            None if there are no tiles. A tensor [n, M] is returned as it is.
        attention_mask: [n, t], for the padding on the left, which the ranges count.
    """
    if media_offset is None:
        return []
    if isinstance(media_offset, Tensor) and media_offset.dim() == 2:
        return media_offset
    if not isinstance(media_offset, Tensor) or media_offset.dim() != 3:
        return [_as_list(sample) for sample in media_offset]
    return [
        _from_ranges(ranges, first)
        for ranges, first in zip(
            media_offset.tolist(), _first_tokens(attention_mask, len(media_offset)), strict=True
        )
    ]


def _as_list(sample: Tensor | Sequence[int] | None) -> list[int]:
    if sample is None:
        return []
    return [int(offset) for offset in torch.as_tensor(sample).reshape(-1).tolist()]


def _first_tokens(attention_mask: Tensor | None, rows: int) -> list[int]:
    if attention_mask is None:
        return [0] * rows
    return [int(first) for first in attention_mask.int().argmax(dim=1).tolist()]


def _from_ranges(ranges: list[list[int]], first_token: int) -> list[int]:
    """Convert one sample's [first tile, tiles seen so far + first tile] per token to positions.

    A tile counts as seen from the token after its first placeholder.
    """
    end = ranges[-1][1]
    if end < 0:
        return []
    seen = [stop for _, stop in ranges]
    first_tile = ranges[-1][0]
    return [
        next(token for token, stop in enumerate(seen) if stop > tile) - 1 - first_token
        for tile in range(first_tile, end)
    ]
