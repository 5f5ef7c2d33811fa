# SPDX-License-Identifier: Apache-2.0
"""Arrow files: the cache of Hugging Face's `datasets`, and what its save_to_disk writes.

One batch per record batch. Files are mapped into memory, so that skipping a batch reads nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from owl.curate.converters.records import ConvertError, ConvertOptions, Reject, SourceRecord
from owl.curate.converters.sources.parquet_source import ROWS_AT_ONCE, import_pyarrow
from owl.curate.converters.sources.source import Batch, SourceFile, stat_fingerprint


@dataclass(frozen=True, slots=True)
class ArrowSource:
    """`*.arrow`, as a stream or as a file with an index."""

    suffixes: tuple[str, ...] = (".arrow",)

    def read_batches(
        self, file: SourceFile, *, max_records: int, options: ConvertOptions
    ) -> Iterator[Batch]:
        """Cut a file at its record batches. Raises ConvertError if it is not an arrow file."""
        first = 1
        try:
            for number, rows in enumerate(_record_batches(file)):
                yield Batch(
                    file=file,
                    number=number,
                    fingerprint=stat_fingerprint(file),
                    source_bytes=rows.nbytes,
                    row_group=number,
                    first_row=first,
                )
                first += rows.num_rows
        except import_pyarrow("pyarrow").ArrowException as error:
            raise ConvertError(
                f"{file.path} is not an arrow file, or is damaged behind row {first - 1}: {error}. "
                "Copy it again."
            ) from error

    def read_records(self, batch: Batch) -> Iterator[SourceRecord | Reject]:
        """Read the rows of a record batch."""
        for number, rows in enumerate(_record_batches(batch.file)):
            if number == batch.row_group:
                for start in range(0, rows.num_rows, ROWS_AT_ONCE):
                    for row in rows.slice(start, ROWS_AT_ONCE).to_pylist():
                        yield SourceRecord(batch.file.name, batch.first_row + start, row)
                        start += 1
                return


def _record_batches(file: SourceFile) -> Iterator[Any]:
    pyarrow, ipc = import_pyarrow("pyarrow"), import_pyarrow("pyarrow.ipc")
    with pyarrow.memory_map(str(file.path)) as mapped:
        if mapped.read(6) == b"ARROW1":
            reader = ipc.open_file(mapped)
            yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            mapped.seek(0)
            yield from ipc.open_stream(mapped)
