# SPDX-License-Identifier: Apache-2.0
"""The packs of a rehearsal: from the run's own data, or from a mix of sample lengths."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from owl.config.media_entry import Splice
from owl.config.run import MixKind, RunConfig
from owl.data.collate import collate
from owl.data.families import Reading, reading_of
from owl.data.open_run import chosen_for, open_loader, packs_per_step, step_size
from owl.data.plan.packing import pack_window
from owl.data.samples import EncodedSample, PackedBatch

SAMPLES = 4000
"""Samples that a mix is packed from."""
DOCUMENTS = 8
"""Samples of a uniform pack."""
SEPARATOR = 1
"""Tokens between two tiles."""
SEED = 7


def micro_batches_of(run: RunConfig, ranks: int) -> tuple[list[PackedBatch], int, MixKind]:
    """Make the micro-batches of one data-parallel rank.

    Returns:
        Those to rehearse, how many a full step has, and where they are from.
    """
    dp_size = ranks // (run.parallel.tensor * run.parallel.pipeline)
    wanted = run.rehearse.micro_batches or 2 * run.parallel.pipeline * run.parallel.virtual_pipeline
    kind = run.rehearse.mix
    if kind is MixKind.auto:
        there = all(Path(source.path).is_dir() for source in run.data.sources.values())
        kind = MixKind.data if run.data.sources and there else MixKind.uniform
    if kind is MixKind.data:
        batches, in_step = _own(run, dp_size, wanted)
    else:
        batches, in_step = _mixed(run, kind, dp_size, wanted)
    return batches[: min(wanted, in_step)], in_step, kind


def _own(run: RunConfig, dp_size: int, wanted: int) -> tuple[list[PackedBatch], int]:
    loader = open_loader(run, dp_size=dp_size)
    size = step_size(run.batch, loader, dp_size=dp_size)
    step = next(loader.steps(size, samples_per_step=chosen_for(run.batch)))
    return list(step.microbatches), len(step.microbatches)


def _mixed(
    run: RunConfig, kind: MixKind, dp_size: int, wanted: int
) -> tuple[list[PackedBatch], int]:
    placeholder = tokens_a_tile(run)
    tokens, tiles = mix(kind, run.pack.text_tokens, run.pack.tiles, placeholder)
    fits = (tokens <= run.pack.text_tokens) & (tiles <= run.pack.tiles)
    tokens, tiles = tokens[fits], tiles[fits]
    packs = [[i] for i in range(len(tokens))]
    if run.pack.enabled:
        budgets = {"max_tokens": run.pack.text_tokens, "max_tiles": run.pack.tiles}
        packs = pack_window(tokens, tiles, **budgets)
    mean = len(tokens) / len(packs)
    in_step = packs_per_step(run.batch, mean_samples_per_pack=mean, dp_size=dp_size)
    each = run.batch.micro_batch_size
    in_step //= each * dp_size
    reading = reading_of(run.model)
    batches = [
        collate(
            [
                sample
                for pack in packs[first * each % len(packs) :][:each]
                for sample in _samples(tokens[pack], tiles[pack], reading, placeholder)
            ]
        )
        for first in range(min(wanted, in_step))
    ]
    return batches, in_step


def tokens_a_tile(run: RunConfig) -> int:
    """Tokens that a tile takes in the text: a placeholder's, or a row for each of its vectors."""
    spliced = isinstance(run.model.enters, Splice)
    return (run.model.keys_per_tile if spliced else 5) + SEPARATOR


def mix(
    kind: MixKind, text_tokens: int, tiles: int, placeholder: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw text tokens and tiles of each sample: two [n] arrays.

    Shaped on what public corpora report: captions of about 50 tokens, web documents of about 800
    tokens and 2.5 pictures, cut pictures of 4 to 7 tiles, videos of 8 to 128 frames.

    Args:
        kind: not data.
        text_tokens: budget of a pack, which a uniform pack fills.
        tiles: likewise.
        placeholder: tokens that each tile adds.
    """
    if kind is MixKind.uniform:
        text, media = (np.full(SAMPLES, budget // DOCUMENTS) for budget in (text_tokens, tiles))
        return text, media
    rng = np.random.default_rng(SEED)
    drawn = [part(rng, int(share * SAMPLES)) for part, share in _PARTS[kind]]
    text, media = (np.concatenate(part) for part in zip(*drawn, strict=True))
    order = rng.permutation(len(text))
    return (text + placeholder * media)[order], media[order]


def _lengths(
    rng: np.random.Generator, count: int, mean: float, sigma: float, low: int, high: int
) -> NDArray[np.int64]:
    drawn = rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, count)
    return np.clip(drawn, low, high).astype(np.int64)


Drawn = tuple[NDArray[np.int64], NDArray[np.int64]]


def _captions(rng: np.random.Generator, n: int) -> Drawn:
    return _lengths(rng, n, 55, 0.6, 8, 400), np.ones(n, np.int64)


def _documents(rng: np.random.Generator, n: int) -> Drawn:
    return _lengths(rng, n, 816, 1.0, 40, 20_000), np.clip(rng.geometric(0.4, n), 1, 30)


def _video_captions(rng: np.random.Generator, n: int) -> Drawn:
    return _lengths(rng, n, 120, 0.5, 20, 600), rng.choice([8, 16, 32], n, p=[0.6, 0.3, 0.1])


def _pages(rng: np.random.Generator, n: int) -> Drawn:
    return _lengths(rng, n, 700, 0.7, 60, 6000), rng.choice([4, 5, 7], n, p=[0.2, 0.4, 0.4])


def _text(rng: np.random.Generator, n: int) -> Drawn:
    return _lengths(rng, n, 450, 1.1, 20, 20_000), np.zeros(n, np.int64)


def _cut_pictures(rng: np.random.Generator, n: int) -> Drawn:
    tiles = rng.choice([1, 4, 5, 7], n, p=[0.15, 0.15, 0.35, 0.35])
    return _lengths(rng, n, 350, 0.9, 30, 6000), tiles


def _several(rng: np.random.Generator, n: int) -> Drawn:
    return _lengths(rng, n, 400, 0.8, 40, 6000), np.clip(1 + rng.geometric(0.22, n), 2, 40)


def _videos(rng: np.random.Generator, n: int) -> Drawn:
    frames = rng.choice([8, 16, 32, 64, 128], n, p=[0.2, 0.4, 0.2, 0.15, 0.05])
    return _lengths(rng, n, 300, 0.8, 30, 4000), frames


_PARTS = {
    MixKind.captions: [(_captions, 1.0)],
    MixKind.interleaved: [
        *((_captions, 0.45), (_documents, 0.30), (_video_captions, 0.10)),
        *((_pages, 0.10), (_text, 0.05)),
    ],
    MixKind.instructions: [
        *((_cut_pictures, 0.50), (_several, 0.20), (_videos, 0.15), (_text, 0.15)),
    ],
}


def _samples(
    tokens: NDArray[np.int64], tiles: NDArray[np.int64], reading: Reading, placeholder: int
) -> Iterator[EncodedSample]:
    """Samples of these lengths, their pictures first; every other token is learned."""
    empty = reading.no_pixels()
    for index, (length, count) in enumerate(zip(tokens.tolist(), tiles.tolist(), strict=True)):
        step = max(1, min(placeholder, length // max(count, 1)))
        weights = torch.zeros(length)
        weights[min(count * step, length - 1) :] = 1
        yield EncodedSample(
            key=f"sample {index}",
            source="rehearsal",
            tokens=torch.zeros(length, dtype=torch.int64),
            loss_weights=weights,
            positions=torch.arange(length),
            tiles=empty.expand(0, *empty.shape[1:]).new_empty(count, *empty.shape[1:]),
            media_offset=[i * step for i in range(count)],
        )


def text_only(pack: PackedBatch) -> PackedBatch:
    """Remove the pictures of a pack: what another rank may have at the same time."""
    return replace(
        pack,
        pixel_values=pack.pixel_values[:0],
        flat_media_offset=pack.flat_media_offset[:0],
        cu_media=torch.zeros_like(pack.cu_media),
        media_offset=[[] for _ in pack.media_offset],
    )
