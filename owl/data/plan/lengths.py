# SPDX-License-Identifier: Apache-2.0
"""How many tokens and tiles each sample will give, known before any picture is read.

Counted once per shard, tokenizer, template and tile size, and kept next to the shard as
`shard.tar.tok.<hash8>`; prepare.py with the training command's overrides writes the same
files ahead of time.
"""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from owl.config.run import LiteralPolicy
from owl.data.encode.encoder import SampleEncoder, SampleMeter
from owl.data.shards.dataset import MAX_LOADED_INDEXES, Dataset
from owl.data.shards.index import LITERAL_ERROR, replace_file
from owl.data.shards.storage import LocalFolder
from owl.data.shown import CutChoice, Shown

logger = logging.getLogger("owl")

MAGIC = b"OWL3TOK1"

Counts = NDArray[np.int32]
"""[n, 3, 2]: per sample and CutChoice, text tokens and tiles. Zero for an invalid sample."""


class SampleLengths:
    """Lengths of a dataset's samples under one encoder, counted shard by shard when needed."""

    def __init__(self, dataset: Dataset, encoder: SampleEncoder) -> None:
        self._dataset = dataset
        self.encoder = encoder
        self._counts: OrderedDict[int, Counts] = OrderedDict()

    def of(self, sample: int, cut: CutChoice) -> tuple[int, int]:
        """Text tokens (placeholders included) and tiles of one sample."""
        shard, local = self._dataset.locate(sample)
        if shard not in self._counts:
            if len(self._counts) >= MAX_LOADED_INDEXES:
                self._counts.popitem(last=False)
            self._counts[shard] = load_counts(self._dataset, shard, self.encoder)
        tokens, tiles = self._counts[shard][local, cut].tolist()
        return tokens, tiles


def load_counts(dataset: Dataset, shard: int, encoder: SampleEncoder) -> Counts:
    """Read a shard's counts, or count and keep them (beside a shard behind a URL: in memory)."""
    name = counts_name(dataset, shard, encoder)
    index_hash = dataset.index(shard).content_hash
    num_samples = dataset.records[shard].samples
    prefix = MAGIC + index_hash  # counts of another version of the shard are counted again
    content = dataset.read_file(name) or b""
    if content.startswith(prefix) and len(content) == len(prefix) + num_samples * 3 * 2 * 4:
        flat = np.frombuffer(content, "<i4", offset=len(prefix))
        return flat.reshape(num_samples, len(CutChoice), 2)
    logger.info(
        "counting tokens of %s; prepare.py with the training command's overrides does it earlier",
        name,
    )
    counts = count_shard(dataset, shard, encoder)
    if isinstance(dataset.storage, LocalFolder):
        try:
            replace_file(dataset.folder / name, prefix + counts.astype("<i4").tobytes())
        except OSError as error:
            logger.info("token counts of %s stay in memory: %s", name, error)
    return counts


def counts_name(dataset: Dataset, shard: int, encoder: SampleEncoder) -> str:
    """File beside a shard that holds its counts."""
    hash8 = hashlib.blake2b(encoder.name.encode(), digest_size=4).hexdigest()
    return f"{dataset.records[shard].file}.tok.{hash8}"


def count_shard(dataset: Dataset, shard: int, encoder: SampleEncoder) -> Counts:
    """Tokenise every sample of a shard under every choice of cutting.

    Returns:
        [n, 3, 2] int32.
    """
    counts = np.zeros((dataset.records[shard].samples, len(CutChoice), 2), np.int32)
    usable = {None, LITERAL_ERROR} if encoder.literals == LiteralPolicy.escape else {None}
    for local in range(len(counts)):
        sample = dataset.starts[shard] + local
        if dataset.error(sample) in usable:
            counts[local] = count_sample(dataset, sample, encoder)
    return counts


def count_sample(dataset: Dataset, sample: int, encoder: SampleEncoder) -> list[tuple[int, int]]:
    """Text tokens and tiles of one sample, for each CutChoice."""
    raw = dataset.read_text(sample)
    meter = SampleMeter(encoder, raw.document, raw.sizes)
    # Most samples look the same under every choice.
    by_places: dict[Sequence[Shown], tuple[int, int]] = {}
    counts = []
    for cut in CutChoice:
        places = tuple(encoder.places(raw.document, raw.sizes, cut))
        if places not in by_places:
            by_places[places] = meter.measure(cut)
        counts.append(by_places[places])
    return counts
