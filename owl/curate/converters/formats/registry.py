# SPDX-License-Identifier: Apache-2.0
"""The table of converters: what `data_tools/convert.py` can be asked for."""

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
from owl.curate.converters.records import Draft, OpenedSample, SourceRecord
from owl.curate.converters.sources.json_source import JsonSource
from owl.curate.converters.sources.parquet_source import ParquetSource
from owl.curate.converters.sources.source import Source
from owl.curate.converters.sources.tar_source import TarSource


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of source: how it is read, what becomes of a record, and the way back."""

    name: str
    source: Source
    to_draft: Callable[[SourceRecord, PictureStore], Draft]
    to_source: Callable[[OpenedSample], Any]
    """Inverse of to_draft: what the record's value was."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Choices of its own that change what is written."""


FAMILIES = {
    family.name: family
    for family in (
        Family(llava.FAMILY, JsonSource(), llava.to_draft, llava.to_source),
        Family(obelics.FAMILY, JsonSource(), obelics.to_draft, obelics.to_source),
        Family(mmc4.FAMILY, JsonSource(), mmc4.to_draft, mmc4.to_source),
        Family(m4.FAMILY, JsonSource(), m4.to_draft, m4.to_source),
        Family(
            sharegpt4video.FAMILY, JsonSource(), sharegpt4video.to_draft, sharegpt4video.to_source
        ),
        Family(captions.FAMILY, TarSource(), captions.to_draft, captions.to_source),
        Family(parquet.FAMILY, ParquetSource(), parquet.to_draft, parquet.to_source),
        Family(jsonl.FAMILY, JsonSource(), jsonl.to_draft, jsonl.to_source),
    )
}
