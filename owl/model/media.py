# SPDX-License-Identifier: Apache-2.0
"""Who sees what in a pack: the one value that every layer and every attention backend reads.

It holds boundaries and positions, never features: those carry gradients, so they travel as a
tensor argument (`context` in megatron-core), where activation recompute can see them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from owl.config.media_entry import Splice
from owl.config.run import ModelConfig
from owl.data.samples import PackedBatch
from owl.errors import BatchError
from owl.model.rope import Rotary, rotary


@dataclass(frozen=True, slots=True)
class SampleView:
    """One sample's place in a pack."""

    rows: slice  # of the packed row
    keys: slice  # of the flattened patches [m * p]
    visible_from: tuple[int, ...]  # per tile, the first of the sample's tokens that sees it
    patches: int  # p

    @property
    def num_tokens(self) -> int:
        """Text tokens of the sample."""
        return self.rows.stop - self.rows.start


@dataclass(frozen=True)
class PackContext:
    """Sample boundaries, media positions and rotary tables of one micro-batch."""

    samples: tuple[SampleView, ...]
    text_rotary: Rotary  # of t tokens
    media_rotary: Rotary  # of m tiles
    position_ids: Tensor  # [t] int64, within the sample
    media_position: Tensor  # [m] int64, within the sample
    token_sample: Tensor  # [t] int64, which sample a token belongs to
    sample_edges: Tensor  # [n + 1] int64, the first row of each sample, and the end
    media_sample: Tensor  # [m] int64, which sample a tile belongs to
    media_rows: Tensor  # [m * p] int64, rows that spliced tiles take in the pack; else empty
    patches: int  # p, keys a tile costs

    @cached_property
    def is_media(self) -> Tensor:
        """[t] bool, True where a row holds a vector of a spliced tile."""
        return torch.zeros_like(self.token_sample, dtype=torch.bool).index_fill(
            0, self.media_rows, True
        )

    @cached_property
    def patch_rotary(self) -> Rotary:
        """Rotary tables of [m * p] patches, made once for all layers."""
        return self.media_rotary.repeat(self.patches)

    @cached_property
    def shows_media(self) -> bool:
        """Whether any token sees any tile."""
        return any(
            min(view.visible_from, default=view.num_tokens) < view.num_tokens
            for view in self.samples
        )

    @cached_property
    def sees_media(self) -> Tensor:
        """[t] bool, True where a token sees at least one tile."""
        first = torch.full(
            (len(self.samples),), torch.iinfo(torch.int64).max, device=self.position_ids.device
        )
        first = first.scatter_reduce(0, self.media_sample, self.media_position, "amin")
        return self.position_ids >= first[self.token_sample]

    def media_visibility(self) -> Tensor:
        """Return which tiles each token may attend to: [t, m] bool.

        A token sees a tile when both belong to the same sample and the token is at or after
        the tile's position. Dense in t and m: for the reference backend and for tests.
        """
        same_sample = self.token_sample[:, None] == self.media_sample[None, :]
        reached = self.position_ids[:, None] >= self.media_position[None, :]
        return same_sample & reached

    def text_visibility(self) -> Tensor:
        """Return which tokens each token may attend to: [t, t] bool, causal within a sample."""
        same_sample = self.token_sample[:, None] == self.token_sample[None, :]
        row = torch.arange(len(self.token_sample), device=self.token_sample.device)
        return same_sample & (row[:, None] >= row[None, :])


def pack_context(batch: PackedBatch, model: ModelConfig, dtype: torch.dtype) -> PackContext:
    """Derive from a pack what the layers need to know about it.

    Args:
        batch: on the device of the model.
        model: its head size, rotary base, position shift and keys per tile.
        dtype: of the model's activations.
    """
    device = batch.tokens.device
    patches, shift = model.keys_per_tile, model.enters.position_shift
    media_position = batch.flat_media_offset + shift
    samples = tuple(_views(batch, shift, patches))
    index = torch.arange(len(samples), device=device)
    media_sample = torch.repeat_interleave(
        index, batch.cu_media.diff(), output_size=batch.num_tiles
    )
    rows = index.new_empty(0)
    if isinstance(model.enters, Splice):
        rows = media_rows(batch, media_sample, patches)

    def table(positions: Tensor) -> Rotary:
        return rotary(positions, head_dim=model.head_dim, theta=model.rope_theta, dtype=dtype)

    return PackContext(
        samples=samples,
        text_rotary=table(batch.position_ids),
        media_rotary=table(media_position),
        position_ids=batch.position_ids,
        media_position=media_position,
        token_sample=torch.repeat_interleave(
            index, batch.cu_seqlens.diff(), output_size=batch.num_tokens
        ),
        sample_edges=batch.cu_seqlens.long(),
        media_sample=media_sample,
        media_rows=rows,
        patches=patches,
    )


def media_rows(batch: PackedBatch, media_sample: Tensor, vectors: int) -> Tensor:
    """Find the rows of a pack that the vectors of spliced tiles take, tile after tile.

    Args:
        batch: whose offsets name the first row of each tile within its sample.
        media_sample: [m] int64, which sample a tile belongs to.
        vectors: of a tile.

    Returns:
        [m * vectors] int64, on the device of the batch; nothing waits for the device.

    Raises:
        BatchError: a tile's rows reach into the next tile or past the end of its sample.
    """
    for key, length, offsets in zip(batch.keys, batch.seqlens, batch.media_offset, strict=True):
        for offset, end in zip(offsets, [*offsets[1:], length], strict=False):
            if offset + vectors > end:
                raise BatchError(
                    f"sample {key}: a tile at token {offset} takes {vectors} rows, but only "
                    f"{end - offset} are free. Its placeholder has too few ids: "
                    "model.keys_per_tile says how many the model needs."
                )
    first = batch.cu_seqlens.long()[media_sample] + batch.flat_media_offset
    return (first[:, None] + torch.arange(vectors, device=first.device)).flatten()


def _views(batch: PackedBatch, shift: int, patches: int) -> Iterator[SampleView]:
    row = tile = 0
    for length, offsets in zip(batch.seqlens, batch.media_offset, strict=True):
        yield SampleView(
            rows=slice(row, row + length),
            keys=slice(tile * patches, (tile + len(offsets)) * patches),
            visible_from=tuple(offset + shift for offset in offsets),
            patches=patches,
        )
        row += length
        tile += len(offsets)
