# SPDX-License-Identifier: Apache-2.0
"""Parquet files, one batch per row group. pyarrow is imported only when one is read."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from owl.curate.converters.records import ConvertError, ConvertOptions, Reject, SourceRecord
from owl.curate.converters.sources.source import Batch, SourceFile, stat_fingerprint

ROWS_AT_ONCE = 32
"""Rows with pictures inside are large."""


@dataclass(frozen=True, slots=True)
class ParquetSource:
    """`*.parquet`."""

    suffixes: tuple[str, ...] = (".parquet",)

    def read_batches(
        self, file: SourceFile, *, max_records: int, options: ConvertOptions
    ) -> Iterator[Batch]:
        """Cut a file at its row groups. Raises ConvertError if it is not a parquet file."""
        table = _open(file)
        first, rows = 1, max(table.metadata.num_rows, 1)
        for number in range(table.metadata.num_row_groups):
            count = table.metadata.row_group(number).num_rows
            yield Batch(
                file=file,
                number=number,
                fingerprint=stat_fingerprint(file),
                source_bytes=file.path.stat().st_size * count // rows,
                row_group=number,
                first_row=first,
            )
            first += count

    def read_records(self, batch: Batch) -> Iterator[SourceRecord | Reject]:
        """Read the rows of a row group."""
        table, number = _open(batch.file), batch.first_row
        try:
            for rows in table.iter_batches(
                batch_size=ROWS_AT_ONCE, row_groups=[batch.row_group], use_threads=False
            ):
                for row in rows.to_pylist():
                    yield SourceRecord(batch.file.name, number, row)
                    number += 1
        except import_pyarrow("pyarrow").ArrowException as error:
            rest = f"the row group cannot be read from here on: {error}. Copy the file again."
            yield Reject(batch.file.name, number, "E201", rest)


def _open(file: SourceFile) -> Any:
    try:
        return import_pyarrow("pyarrow.parquet").ParquetFile(file.path)
    except import_pyarrow("pyarrow").ArrowException as error:
        raise ConvertError(f"{file.path} is not a parquet file: {error}. Copy it again.") from error


def import_pyarrow(module: str) -> ModuleType:
    """Import a module of pyarrow. Raises ConvertError if it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ConvertError(
            "parquet and arrow files are read with pyarrow, which is not installed. Run "
            "`pip install 'owl3-megatron[data]'`, or `pip install pyarrow`."
        ) from error
