# SPDX-License-Identifier: Apache-2.0
"""Compiled FlexAttention: the path for GPUs. Blocks that no row sees are never computed.

Every key is seen by one run of rows: from the row where it becomes visible to the end of its
sample. In a pack these runs rise with the key, among the patches and among the tokens, so the keys
that a block of rows sees are one run of patches and one of tokens. That gives the block mask from
a few sorted searches, where torch's own builder would evaluate every pair of the pack.
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from owl.model.media import PackContext

BLOCK_SIZE = 128
COMPILED_SHAPES = 256
"""Pairs of padded lengths that may each have a kernel; torch stops compiling after 8 by default."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Keys, and the rows of the pack that see each: start <= row < end. Both rise with the key."""

    start: Tensor  # [n] int64
    end: Tensor  # [n] int64


class FlexAttention:
    """Text, media and joint attention through one kernel and three block masks a pack."""

    def __init__(self, block_size: int = BLOCK_SIZE) -> None:
        self.block_size = block_size
        # All layers of a pack share its masks; they go when the pack goes.
        self._masks: dict[tuple[int, str], BlockMask] = {}

    def text(self, query: Tensor, key: Tensor, value: Tensor, pack: PackContext) -> Tensor:
        """Attend causally to the tokens of the same sample."""
        return self._attend(query, [key], [value], self.mask("text", pack))

    def media(
        self, query: Tensor, media_key: Tensor, media_value: Tensor, pack: PackContext
    ) -> Tensor:
        """Attend to the patches of the visible tiles; rows that see none are zero."""
        if not len(media_key):
            return torch.zeros_like(query)
        return self._attend(query, [media_key], [media_value], self.mask("media", pack))

    def joint(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        media_key: Tensor,
        media_value: Tensor,
        pack: PackContext,
    ) -> Tensor:
        """Attend to visible patches and tokens under one softmax."""
        if not len(media_key):
            return self.text(query, key, value, pack)
        mask = self.mask("joint", pack)
        return self._attend(query, [media_key, key], [media_value, value], mask)

    def mask(self, kind: str, pack: PackContext) -> BlockMask:
        """Build a pack's mask for `text`, `media` or `joint` on first use."""
        place = (id(pack), kind)
        if place not in self._masks:
            groups = {
                "text": [text_columns],
                "media": [media_columns],
                "joint": [media_columns, text_columns],
            }[kind]
            columns = [group(pack) for group in groups]
            self._masks[place] = block_mask(columns, len(pack.position_ids), self.block_size)
            weakref.finalize(pack, self._masks.pop, place, None)
        return self._masks[place]

    def _attend(
        self, query: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], mask: BlockMask
    ) -> Tensor:
        """Attend from [t, a, d] to groups of keys [n, k, d], each padded as the mask has it."""
        # Eager on a CPU: no backward pass, and slow, but the numbers can be tested.
        attend = _compiled() if query.is_cuda else flex_attention
        out = attend(
            _heads_first([query], self.block_size),
            _heads_first(keys, self.block_size),
            _heads_first(values, self.block_size),
            block_mask=mask,
            enable_gqa=query.shape[1] != keys[0].shape[1],
        )
        return out[0].transpose(0, 1)[: len(query)]


def text_columns(pack: PackContext) -> Columns:
    """Return that a token is seen from itself to the end of its sample."""
    stops = pack.sample_edges[1:]
    row = torch.arange(len(pack.token_sample), device=pack.token_sample.device)
    return Columns(row, stops[pack.token_sample])


def media_columns(pack: PackContext) -> Columns:
    """Return that a tile's patches are seen from its position to the end of its sample."""
    starts, stops = pack.sample_edges[:-1], pack.sample_edges[1:]
    start, end = starts[pack.media_sample] + pack.media_position, stops[pack.media_sample]
    return Columns(*(edge.repeat_interleave(pack.patches) for edge in (start, end)))


def padded_length(length: int, block_size: int) -> int:
    """Round a length up to 2^i or 3 x 2^i blocks, so that few lengths occur, each compiled once.

    Padding costs memory of keys and values, up to a half; its blocks are not computed.
    """
    blocks = -(-length // block_size)
    power = 1 << max(0, blocks - 1).bit_length()
    three_quarters = power * 3 // 4
    return block_size * (three_quarters if blocks <= three_quarters else power)


def block_mask(groups: Sequence[Columns], rows: int, block_size: int) -> BlockMask:
    """Build the mask of attention from the rows of a pack to groups of keys, end to end.

    Args:
        groups: of keys, each padded by itself to `padded_length`.
        rows: t.
        block_size: rows, and keys, of a block.
    """
    device = groups[0].start.device
    first = torch.arange(0, padded_length(rows, block_size), block_size, device=device)
    tables = [_blocks(columns, first, block_size) for columns in groups]
    seen, full = (torch.cat(parts, dim=1) for parts in zip(*tables, strict=True))
    return BlockMask.from_kv_blocks(
        *_ordered(seen & ~full),
        *_ordered(full),
        BLOCK_SIZE=block_size,
        mask_mod=_mask_mod(groups, block_size),
    )


def _blocks(columns: Columns, first: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Find the key blocks that each row block sees at least partly, and those it sees fully.

    Args:
        columns: n keys.
        first: [blocks of rows] first row of each.
        block_size: of rows and of keys.

    Returns:
        Two [blocks of rows, blocks of keys] bool. Padding, of rows or keys, is wholly seen nowhere.
    """
    stop = first + block_size
    key = torch.arange(
        0, padded_length(len(columns.start), block_size), block_size, device=first.device
    )
    # Keys from `low` on end after the first row; keys before `high` start before the last is over.
    low = torch.searchsorted(columns.end, first, right=True)[:, None]
    high = torch.searchsorted(columns.start, stop)[:, None]
    seen = key.maximum(low) < (key + block_size).minimum(high)
    # Keys from here on end at the last row or later; keys before there start by the first.
    low = torch.searchsorted(columns.end, stop)[:, None]
    high = torch.searchsorted(columns.start, first, right=True)[:, None]
    full = (key >= low) & (key + block_size <= high)
    return seen, full


def _ordered(table: Tensor) -> tuple[Tensor, Tensor]:
    """Turn [q, k] bool into counts [1, 1, q] and block indices [1, 1, q, k], those meant first."""
    indices = table.int().argsort(dim=-1, descending=True, stable=True)
    return table.sum(-1).int()[None, None], indices.int()[None, None]


def _mask_mod(groups: Sequence[Columns], block_size: int) -> Callable[..., Tensor]:
    """Make the predicate for blocks that are seen in part. No row sees the padding of keys."""
    start, end = (
        torch.cat([_padded(getattr(columns, edge), block_size) for columns in groups])
        for edge in ("start", "end")
    )

    def sees(batch: Tensor, head: Tensor, row: Tensor, key: Tensor) -> Tensor:
        return (start[key] <= row) & (row < end[key])

    return sees


def _heads_first(groups: Sequence[Tensor], block_size: int) -> Tensor:
    """Pad groups of [n, a, d], each by itself, and concatenate them: [1, a, sum of n, d]."""
    rows = torch.cat([_padded(group, block_size) for group in groups])
    return rows.transpose(0, 1)[None]


def _padded(rows: Tensor, block_size: int) -> Tensor:
    """Add zeros to [n, ..] up to its padded length."""
    missing = padded_length(len(rows), block_size) - len(rows)
    return F.pad(rows, [0, 0] * (rows.ndim - 1) + [0, missing])


@cache
def _compiled() -> Callable[..., Any]:
    """Compile FlexAttention, one kernel for each pair of lengths, when a GPU first needs it."""
    limit = max(COMPILED_SHAPES, torch._dynamo.config.recompile_limit)
    torch._dynamo.config.recompile_limit = limit
    return torch.compile(flex_attention, dynamic=False)
