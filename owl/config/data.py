# SPDX-License-Identifier: Apache-2.0
"""The data nodes: sources, how samples are read, packs, batches."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from owl.config.choices import (
    ChangePolicy,
    CutPolicy,
    ImageLibrary,
    LiteralPolicy,
    OversizePolicy,
)
from owl.config.rules import outside, too_small


@dataclass(kw_only=True)
class SourceConfig:
    """One folder of prepared shards."""

    path: str = ""
    """Folder that holds dataset.json (written by `owl data prepare`)."""
    weight: float = 1.0
    """Share in the blend, relative to the other sources."""
    epochs: float | None = None
    """Passes over this source in an epoch of the blend, instead of a weight. Set it for all sources
    or for none."""
    cut: CutPolicy | None = None
    """Overrides `data.cut` for this source."""
    max_frames: int | None = None
    """Overrides `data.max_frames` for this source."""
    oversize: OversizePolicy | None = None
    """Overrides `data.oversize` for this source."""
    held_out: float = 0.0
    """Share of its samples that is never trained on; `evaluate` logs the loss of it."""


@dataclass(kw_only=True)
class DataConfig:
    """Where samples come from and how they are read."""

    sources: dict[str, SourceConfig] = field(default_factory=dict)
    """By name; the names appear in logs and error messages."""
    tokenizer: str = ""
    """Folder with tokenizer.json, or with vocab.json and merges.txt."""
    cut: CutPolicy = CutPolicy.off
    max_frames: int | None = None
    """Most frames of a video, evenly spaced; null: all stored ones (paper: 8)."""
    oversize: OversizePolicy = OversizePolicy.drop
    images: ImageLibrary = ImageLibrary.fast
    """pillow gives the published processor's tiles bit for bit, at about a third of the speed."""
    special_literals: LiteralPolicy = LiteralPolicy.reject
    quarantine: str = ""
    """File with the samples to leave out, one SHARD/KEY or SHARD a line; # begins a comment."""
    on_change: ChangePolicy = ChangePolicy.refuse
    seed: int = 1234
    """Seed of the order of samples and packs, and of random choices while encoding."""
    num_workers: int = 0
    """Processes that read and decode next to the trainer. The batches do not depend on it."""
    prefetch: int = 2
    """Micro-batches that each worker prepares ahead."""
    read_attempts: int = 3
    """Attempts at a failing read, with growing pauses, before the run ends."""
    max_skipped_fraction: float = 0.001
    """End the run when a larger share of a source's latest samples had content errors..."""
    max_skipped_samples: int = 20
    """...and more than this many of them."""
    demo: bool = False
    """Make the embedded demo's data and start weights on first use."""
    demo_folder: str = "demo_data"
    """Folder of the embedded demo's data and start weights."""
    demo_shards: str = "stage1"
    """Which of the demo's shards to read, stage1 or stage2; each experiment sets it."""

    def is_made_by_demo(self, path: str) -> bool:
        """Whether the embedded demo makes a path on first use, so that it may be missing."""
        return self.demo and Path(path).is_relative_to(self.demo_folder)

    def problems(self) -> Iterator[str]:
        """Yield one problem for each number that cannot work.

        Sources and tokenizer are checked by `owl.data.problems.data_problems`, which opens them.
        """
        yield from too_small("data.num_workers", self.num_workers, 0, "it counts processes")
        if self.max_frames is not None:
            yield from too_small("data.max_frames", self.max_frames, 1, "a video has a frame")
        yield from too_small("data.prefetch", self.prefetch, 1, "a worker prepares a micro-batch")
        yield from too_small("data.read_attempts", self.read_attempts, 1, "a read is an attempt")
        yield from outside(
            "data.max_skipped_fraction", self.max_skipped_fraction, 0, 1, "it is a share of samples"
        )
        yield from too_small(
            "data.max_skipped_samples", self.max_skipped_samples, 0, "it counts samples"
        )


@dataclass(kw_only=True)
class PackConfig:
    """Several samples in one row, under two budgets."""

    enabled: bool = True
    """false: a pack holds one sample, and batch sizes count samples as published."""
    text_tokens: int = 4096
    """Most tokens of a pack, placeholders included; also of a sample."""
    tiles: int = 40
    """Most tiles of a pack: one tile is 5 text tokens but 729 keys."""
    window: int = 1024
    """Samples among which packs are formed; a pack never spans two windows."""
    tile_cost: float | None = None
    """Cost of a tile in text tokens when packs are balanced over ranks; null: from the model's
    sizes."""

    def problems(self) -> Iterator[str]:
        """Yield one problem for each setting that cannot work."""
        yield from too_small("pack.text_tokens", self.text_tokens, 2, "a sample predicts a token")
        yield from too_small("pack.tiles", self.tiles, 1, "the model learns from images")
        yield from too_small("pack.window", self.window, 1, "it counts samples")
        if self.tile_cost is not None:
            yield from too_small("pack.tile_cost", self.tile_cost, 0, "work is not negative")


@dataclass(kw_only=True)
class BatchConfig:
    """How much data one optimizer step uses."""

    samples_per_step: int | None = None
    """The published batch size. With packing off it is the global batch; with packing on the global
    batch is chosen to hold about this many samples. Ignored when global_batch_size is set."""
    global_batch_size: int | None = None
    """Packs per optimizer step over all ranks."""
    micro_batch_size: int = 1
    """Packs per rank per forward pass, concatenated in one row."""

    def problems(self) -> Iterator[str]:
        """Yield one problem for each setting that cannot work."""
        yield from too_small("batch.micro_batch_size", self.micro_batch_size, 1, "it counts packs")
        for name in ("samples_per_step", "global_batch_size"):
            value = getattr(self, name)
            if value is not None:
                yield from too_small(f"batch.{name}", value, 1, "a step needs data")
        if self.samples_per_step is None and self.global_batch_size is None:
            yield (
                "batch.samples_per_step and batch.global_batch_size are both null. Set the first "
                "(samples a step, as papers count) or the second (packs a step)."
            )
