# SPDX-License-Identifier: Apache-2.0
"""Open a run's sources, as the plan of packs sees them."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from owl.config.run import DataConfig, LiteralPolicy, SourceConfig
from owl.data.encode.encoder import SampleEncoder
from owl.data.encode.tokenizer import Tokenizer, load_tokenizer
from owl.data.families import Reading
from owl.data.microbatch import Fault, check_skips
from owl.data.plan.lengths import SampleLengths
from owl.data.plan.plan import PlannedSource
from owl.data.problems import data_problems
from owl.data.rng import generator
from owl.data.shards.dataset import Dataset
from owl.data.shards.index import LITERAL_ERROR
from owl.data.shards.quarantine import Quarantine, read_quarantine
from owl.errors import ConfigError


@dataclass(frozen=True, slots=True)
class OpenedSources:
    """The sources of a blend, by name, and what they are read with."""

    sources: list[PlannedSource]
    tokenizer: Tokenizer
    quarantine: Quarantine


def open_sources(data: DataConfig, reading: Reading, *, held_out: bool = False) -> OpenedSources:
    """Open every source.

    Args:
        data: sources, tokenizer, quarantine.
        reading: how the model's family reads samples.
        held_out: those sources alone of which a share is held out, and of them that share; off, all
            of them without it.

    Raises:
        ConfigError: a folder or setting is missing; all problems at once.
        DataError: a shard is not the one that was indexed (E109), or too many samples are bad.
    """
    problems = list(data_problems(data))
    if problems:
        raise ConfigError(problems)
    tokenizer = load_tokenizer(data.tokenizer, reading.controls)
    quarantine = read_quarantine(data.quarantine)
    sources = [
        open_source(
            name,
            source,
            data,
            make_encoder(source, data, tokenizer, reading),
            quarantine,
            held_out=held_out,
        )
        for name, source in sorted(data.sources.items())
        if source.held_out or not held_out
    ]
    if not held_out:
        quarantine.check_shards({shard for source in sources for shard in source.dataset.listed})
    return OpenedSources(sources, tokenizer, quarantine)


def held_out_samples(dataset: Dataset, source: str, share: float) -> NDArray[np.bool_]:
    """Say which samples of a source are held out: about a share, drawn shard by shard.

    The draw depends on names alone: neither data.seed nor shards that are added later let a
    held-out sample into training, and a larger share holds out the samples of a smaller one too.
    """
    drawn = [
        generator("held out", source, record.file).random(record.samples) < share
        for record in dataset.records
    ]
    return np.concatenate(drawn)


def make_encoder(
    source: SourceConfig, data: DataConfig, tokenizer: Tokenizer, reading: Reading
) -> SampleEncoder:
    """Make the encoder of one source, which may set its own max_frames."""
    return SampleEncoder(
        tokenizer,
        reading,
        max_frames=source.max_frames if source.max_frames is not None else data.max_frames,
        literals=data.special_literals,
        images=data.images,
    )


def open_source(
    name: str,
    source: SourceConfig,
    data: DataConfig,
    encoder: SampleEncoder,
    quarantine: Quarantine,
    *,
    held_out: bool = False,
) -> PlannedSource:
    """Open the part of a source that is trained on, or the part that is held out.

    Raises:
        ConfigError: it holds no sample.
        DataError: it is stale, or too much of it is bad.
    """
    dataset = Dataset.open(
        source.path, without_shards=quarantine.shards, read_attempts=data.read_attempts
    )
    if not len(dataset):
        raise ConfigError(
            f"data.sources.{name}.path={source.path} holds no samples. Put shards there and run "
            f"owl data prepare {source.path}"
        )
    is_escaping = data.special_literals == LiteralPolicy.escape
    allowed_codes = frozenset([LITERAL_ERROR] if is_escaping else [])
    _check_invalid_share(name, dataset, data, allowed_codes)
    reserved = None
    if source.held_out:
        chosen = held_out_samples(dataset, name, source.held_out)
        reserved = ~chosen if held_out else chosen
    if reserved is not None and reserved.all():
        raise ConfigError(
            f"data.sources.{name}.held_out={source.held_out} leaves none of {len(dataset)} samples "
            f"{'to evaluate' if held_out else 'to train on'}. Choose another share, or name a "
            "folder of its own: evaluate.sources."
        )
    return PlannedSource(
        name=name,
        weight=source.weight,
        epochs=source.epochs,
        cut=source.cut if source.cut is not None else data.cut,
        oversize=source.oversize if source.oversize is not None else data.oversize,
        dataset=dataset,
        lengths=SampleLengths(dataset, encoder),
        allowed_codes=allowed_codes,
        left_out=quarantine.samples(dataset),
        held_out=source.held_out,
        reserved=reserved,
    )


def _check_invalid_share(
    name: str, dataset: Dataset, data: DataConfig, allowed_codes: frozenset[str]
) -> None:
    """Raise DataError when prepare.py found too much of a source invalid."""
    errors = Counter({code: n for code, n in dataset.errors.items() if code not in allowed_codes})
    if not errors:
        return
    code, count = errors.most_common(1)[0]
    check_skips(
        errors.total(),
        len(dataset),
        max_fraction=data.max_skipped_fraction,
        max_samples=data.max_skipped_samples,
        last=Fault(code, f"{count} are of this code.", None, None, name),
    )
