# SPDX-License-Identifier: Apache-2.0
"""Tables as text: `*.csv` and `*.tsv`, whose first row names the fields."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from io import TextIOWrapper

from owl.curate.converters.records import ConvertOptions, Reject, SourceRecord
from owl.curate.converters.sources.json_source import (
    MAX_RECORD_CHARS,
    JsonSource,
    batch_lines,
)
from owl.curate.converters.sources.source import BROKEN_GZIP, Batch, Line, SourceFile, open_source

SEPARATORS = "\t;,"


@dataclass(frozen=True, slots=True)
class CsvSource:
    """`*.csv` and `*.tsv`, also with `.gz`; an empty cell is a missing field."""

    suffixes: tuple[str, ...] = (".csv", ".tsv", ".csv.gz", ".tsv.gz")

    def read_batches(
        self, file: SourceFile, *, max_records: int, options: ConvertOptions
    ) -> Iterator[Batch]:
        """Cut a table into batches of at most max_records rows."""
        return batch_lines(_read_rows(file), file, max_records=max_records, options=options)

    def read_records(self, batch: Batch) -> Iterator[SourceRecord | Reject]:
        """Return the rows of a batch."""
        return JsonSource().read_records(batch)


def _read_rows(file: SourceFile) -> Iterator[Line]:
    """Yield each row as json, with the number of its first line."""
    csv.field_size_limit(MAX_RECORD_CHARS)
    with TextIOWrapper(open_source(file), encoding="utf-8-sig", newline="") as stream:
        number = 1
        try:
            first = stream.readline()
            stream.seek(0)
            separator = max(SEPARATORS, key=first.count)
            rows = csv.reader(stream, delimiter=separator, strict=True)
            names = next(rows, [])
            number = rows.line_num + 1
            for row in rows:
                if row:
                    yield _row_line(number, names, row)
                number = rows.line_num + 1
        except (csv.Error, UnicodeError, *BROKEN_GZIP) as error:
            rest = f"the table cannot be read from here on: {error}. Save it as CSV in UTF-8."
            yield Line(number, b"", rest)


def _row_line(number: int, names: list[str], row: list[str]) -> Line:
    if len(row) != len(names):
        return Line(
            number,
            b"",
            f"the row has {len(row)} cells, but the first row names {len(names)} fields. Put cells "
            "that contain the separator into quotes.",
        )
    record = {name: cell for name, cell in zip(names, row, strict=True) if cell}
    return Line(number, json.dumps(record).encode())
