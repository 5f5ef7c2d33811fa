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
    pages,
    parquet,
    sharegpt4video,
)
from owl.curate.converters.pictures import PictureStore
from owl.curate.converters.records import Draft, SourceRecord
from owl.curate.converters.sources.arrow_source import ArrowSource
from owl.curate.converters.sources.by_suffix import BySuffix, ImageFolder
from owl.curate.converters.sources.csv_source import CsvSource
from owl.curate.converters.sources.json_source import JsonSource
from owl.curate.converters.sources.page_source import PageSource
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
    has_pictures_beside: bool = False
    """Pictures are in the folder of the input, unless --images names another."""
    is_folder_of_pages: bool = False
    """Many small files are read together."""


TABLES = BySuffix((CsvSource(), ParquetSource(), JsonSource()))

FORMATS = {
    each.name: each
    for each in (
        SourceFormat("llava", JsonSource(), llava.to_draft),
        SourceFormat("obelics", JsonSource(), obelics.to_draft),
        SourceFormat("mmc4", JsonSource(), mmc4.to_draft),
        SourceFormat("m4", JsonSource(), m4.to_draft),
        SourceFormat("sharegpt4video", JsonSource(), sharegpt4video.to_draft),
        SourceFormat("captions", TarSource(), captions.to_draft),
        SourceFormat("parquet", BySuffix((ArrowSource(), ParquetSource())), parquet.to_draft),
        SourceFormat("csv", CsvSource(), jsonl.to_draft),
        SourceFormat("imagefolder", ImageFolder(TABLES), jsonl.to_draft, has_pictures_beside=True),
        SourceFormat(
            "pages",
            PageSource(),
            pages.to_draft,
            has_pictures_beside=True,
            is_folder_of_pages=True,
        ),
        SourceFormat("jsonl", JsonSource(), jsonl.to_draft),
    )
}
