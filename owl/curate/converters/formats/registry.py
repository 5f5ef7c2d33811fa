# SPDX-License-Identifier: Apache-2.0
"""The source formats that `owl data convert` knows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from owl.curate.converters.formats import (
    captions,
    jsonl,
    llava,
    m4,
    mmc4,
    obelics,
    parquet,
    sharegpt4video,
)
from owl.curate.converters.pictures import PictureStore
from owl.curate.converters.records import Draft, SourceRecord
from owl.curate.converters.sources.json_source import JsonSource
from owl.curate.converters.sources.parquet_source import ParquetSource
from owl.curate.converters.sources.source import Source
from owl.curate.converters.sources.tar_source import TarSource


@dataclass(frozen=True, slots=True)
class SourceFormat:
    """One kind of source: how its files are read, and how a record becomes a sample."""

    name: str
    source: Source
    to_draft: Callable[[SourceRecord, PictureStore], Draft]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of its own that change what is written."""


FORMATS = {
    each.name: each
    for each in (
        SourceFormat("llava", JsonSource(), llava.to_draft),
        SourceFormat("obelics", JsonSource(), obelics.to_draft),
        SourceFormat("mmc4", JsonSource(), mmc4.to_draft),
        SourceFormat("m4", JsonSource(), m4.to_draft),
        SourceFormat("sharegpt4video", JsonSource(), sharegpt4video.to_draft),
        SourceFormat("captions", TarSource(), captions.to_draft),
        SourceFormat("parquet", ParquetSource(), parquet.to_draft),
        SourceFormat("jsonl", JsonSource(), jsonl.to_draft),
    )
}
