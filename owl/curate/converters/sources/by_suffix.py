# SPDX-License-Identifier: Apache-2.0
"""Sources of several kinds in one folder."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from owl.curate.converters.records import ConvertOptions, Reject, SourceRecord
from owl.curate.converters.sources.source import Batch, Source, SourceFile


@dataclass(frozen=True, slots=True)
class BySuffix:
    """Reads each file by the first source that knows its suffix, or else by the last."""

    sources: tuple[Source, ...]

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of all of them."""
        return tuple(suffix for source in self.sources for suffix in source.suffixes)

    def read_batches(
        self, file: SourceFile, *, max_records: int, options: ConvertOptions
    ) -> Iterator[Batch]:
        """Cut a file into batches."""
        return self._source(file).read_batches(file, max_records=max_records, options=options)

    def read_records(self, batch: Batch) -> Iterator[SourceRecord | Reject]:
        """Read the records of a batch."""
        return self._source(batch.file).read_records(batch)

    def _source(self, file: SourceFile) -> Source:
        name = file.name.lower()
        known = (source for source in self.sources if name.endswith(source.suffixes))
        return next(known, self.sources[-1])


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """Metadata files of a Hugging Face imagefolder; their names are relative to their folder."""

    tables: BySuffix
    suffixes: tuple[str, ...] = ("metadata.jsonl", "metadata.csv", "metadata.parquet")

    def read_batches(
        self, file: SourceFile, *, max_records: int, options: ConvertOptions
    ) -> Iterator[Batch]:
        """Cut a metadata file into batches."""
        return self.tables.read_batches(file, max_records=max_records, options=options)

    def read_records(self, batch: Batch) -> Iterator[SourceRecord | Reject]:
        """Read the records of a batch, with names relative to the folder of all."""
        folder = PurePosixPath(batch.file.name).parent
        for record in self.tables.read_records(batch):
            if isinstance(record, SourceRecord) and isinstance(record.value, dict):
                value = _within(folder, record.value)
                record = SourceRecord(record.file, record.line, value)
            yield record


def _within(folder: PurePosixPath, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _moved(folder, value) if name.endswith(("file_name", "file_names")) else value
        for name, value in row.items()
    }


def _moved(folder: PurePosixPath, value: Any) -> Any:
    if isinstance(value, list):
        return [_moved(folder, item) for item in value]
    return str(folder / value) if isinstance(value, str) else value
