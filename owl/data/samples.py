# SPDX-License-Identifier: Apache-2.0
"""The values that flow from a shard to the model: RawSample, EncodedSample, PackedBatch, StepBatch.

Letters: t tokens, n samples in a pack, m tiles. A tile is one encoded picture; a cut picture gives
several. A tile costs a five-token placeholder in the row and 729 patches on the vision side, so
t and m are budgeted apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from owl.data.shards.document import Document
from owl.data.shown import Sizes
from owl.errors import BatchError

IGNORE_INDEX = -100
"""Label of a position at which nothing is learned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSample:
    """One sample as a shard stores it: its document and the bytes of its media files."""

    key: str
    shard: str
    document: Document
    files: Mapping[str, bytes]  # media file name (without the key) -> bytes
    sizes: Sizes = field(default_factory=dict)  # of its pictures; empty where they are not known


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSample:
    """One sample as the model reads it, before packing.

    `media_offset[i]` is the index, within this sample, of the first placeholder token of tile i.
    `loss_weights[i]` is the weight of token i *as a prediction target*; 0 means it is context.
    """

    key: str
    source: str
    tokens: Tensor  # [t] int64
    loss_weights: Tensor  # [t] float32
    positions: Tensor  # [t] or [3, t] int64, rotary, from 0; see owl.data.families.Reading
    tiles: Tensor  # [m, 3, image_size, image_size] uint8
    media_offset: list[int]  # m entries, increasing

    @property
    def num_tokens(self) -> int:
        """Text tokens, placeholders included."""
        return len(self.tokens)

    @property
    def num_tiles(self) -> int:
        """Encoded pictures."""
        return len(self.media_offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBatch:
    """One micro-batch: several samples concatenated in a single row, with no padding.

    `seqlens` and `media_offset` are authoritative and kept on the host; tensors of boundaries are
    derived from them once, by `owl.data.collate`.
    """

    tokens: Tensor  # [t] int64
    labels: Tensor  # [t] int64, the *next* token of the same sample, or IGNORE_INDEX
    loss_weights: Tensor  # [t] float32, weight of labels[i]; 0 where labels[i] is IGNORE_INDEX
    position_ids: Tensor  # [t] or [3, t] int64, restarts at 0 in every sample
    cu_seqlens: Tensor  # [n + 1] int32, sample i owns rows cu_seqlens[i]:cu_seqlens[i + 1]
    pixel_values: Tensor  # [m, 3, s, s] uint8, normalised on the device; float is taken as it is
    flat_media_offset: Tensor  # [m] int64, media_offset end to end, within its own sample
    cu_media: Tensor  # [n + 1] int32, sample i owns tiles cu_media[i]:cu_media[i + 1]
    seqlens: tuple[int, ...]  # n entries, on the host
    media_offset: list[list[int]]  # per sample: index of each tile's first placeholder within it
    keys: tuple[str, ...]  # n names, so that a bad loss can be traced
    supervised_rows: Tensor | None = None  # [r] int64, rows with a label; set by `to`

    @property
    def num_tokens(self) -> int:
        """Rows of the pack, t."""
        return sum(self.seqlens)

    @property
    def num_samples(self) -> int:
        """Samples in the pack, n."""
        return len(self.seqlens)

    @property
    def num_tiles(self) -> int:
        """Tiles in the pack, m."""
        return sum(len(offsets) for offsets in self.media_offset)

    @property
    def supervised_weight(self) -> float:
        """Sum of the loss weights: this pack's share of the loss denominator."""
        return float(self.loss_weights.sum(dtype=torch.float64))

    def to(self, device: torch.device) -> "PackedBatch":
        """Move every tensor to a device; host fields stay.

        The supervised rows are found here, on the host: on a device, the host would have to wait
        for their number.
        """
        if self.labels.device.type == "cpu" and device.type != "cpu":
            rows = (self.labels != IGNORE_INDEX).nonzero().squeeze(1)
            self = replace(self, supervised_rows=rows)
        tensors: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name in self.__dataclass_fields__
            if isinstance(value := getattr(self, name), Tensor)
        }
        return replace(self, **tensors)

    def check(self) -> None:
        """Raise BatchError when the boundaries do not fit the tensors (cheap: counts only)."""
        if len(self.media_offset) != self.num_samples:
            raise BatchError(
                f"media_offset has {len(self.media_offset)} lists for {self.num_samples} samples "
                f"{list(self.keys)}. A sample was packed without its media; see "
                "owl/data/collate.py."
            )
        if len(self.tokens) != self.num_tokens:
            raise BatchError(
                f"seqlens sum to {self.num_tokens} but the row holds {len(self.tokens)} tokens "
                f"(samples {list(self.keys)})."
            )
        if self.position_ids.shape[-1] != self.num_tokens:
            raise BatchError(
                f"seqlens sum to {self.num_tokens} but position_ids has "
                f"{self.position_ids.shape[-1]} positions (samples {list(self.keys)})."
            )
        if len(self.flat_media_offset) != self.num_tiles:
            raise BatchError(
                f"media_offset names {self.num_tiles} tiles but flat_media_offset has "
                f"{len(self.flat_media_offset)} (samples {list(self.keys)})."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """Position of training in the data: everything before it has been consumed by the optimizer.

    The position is counted in packs of the stateless plan, so it does not depend on the number of
    ranks or loader workers. `fingerprint` names what the plan was made from (data, tokenizer,
    template, budgets, seed): a cursor is only valid for the same fingerprint, and for steps of as
    many packs.
    """

    epoch: int = 0
    window: int = 0
    pack: int = 0  # packs of this window already consumed
    packs_consumed: int = 0
    samples_consumed: int = 0
    packs_per_step: int = 0  # the global batch; 0: not known
    samples_per_step: int | None = None  # that packs_per_step was chosen for; None: set by the user
    skips: Mapping[str, list[int]] = field(default_factory=dict)  # what SkipBudget has counted
    fingerprint: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReport:
    """Statistics of one step's data on this rank."""

    samples: int
    text_tokens: int
    tiles: int
    packs: int
    wait_seconds: float  # how long the trainer waited for it
    skipped: Mapping[str, int] = field(default_factory=dict)  # code -> samples, of all ranks
    work: float = 0.0  # in text tokens: those there are, and pack.tile_cost for each tile
    read_retries: int = 0  # reads that failed and were repeated
    # Of the global batch over all ranks, as planned: every rank knows these.
    imbalance: float = 0.0  # predicted work of the busiest rank over the average, minus 1
    source_samples: Mapping[str, int] = field(default_factory=dict)  # source -> samples
    shortened: Mapping[str, int] = field(default_factory=dict)  # E401, E402 -> shortened samples


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBatch:
    """One optimizer step's data for one data-parallel rank."""

    microbatches: Sequence[PackedBatch]
    cursor: Cursor  # position in the data after this step
    report: DataReport
