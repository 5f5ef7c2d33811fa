# SPDX-License-Identifier: Apache-2.0
"""Folders of pages, one record a file: markdown and HTML."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from owl.curate.converters.pictures import SourceFolder
from owl.curate.converters.records import ConvertOptions, Reject, SourceRecord
from owl.curate.converters.sources.source import Batch, SourceFile, short_hash, stat_fingerprint
from owl.errors import DataError

PAGES_AT_ONCE = 500
MARKDOWN = (".md", ".markdown", ".mdown")
HTML = (".html", ".htm", ".xhtml")
CHARSET = re.compile(rb"<meta[^>]{0,200}charset=[\"']?([\w-]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PageSource:
    """`*.md` and `*.html` anywhere in a folder, in the order of their names."""

    suffixes: tuple[str, ...] = MARKDOWN + HTML

    def read_batches(
        self, file: SourceFile, *, max_records: int, options: ConvertOptions
    ) -> Iterator[Batch]:
        """Cut the list of pages into batches of at most max_records."""
        most = min(max_records, PAGES_AT_ONCE)
        for number, first in enumerate(range(0, len(file.parts), most)):
            names = file.parts[first : first + most]
            pages = [SourceFile(file.root, name) for name in names]
            stats = "\n".join(f"{page.name} {stat_fingerprint(page)}" for page in pages)
            yield Batch(
                file=file,
                number=number,
                fingerprint=short_hash(stats.encode("utf-8", "surrogateescape")),
                source_bytes=sum(page.size for page in pages),
                first_row=first + 1,
                pages=names,
            )

    def read_records(self, batch: Batch) -> Iterator[SourceRecord | Reject]:
        """Read the pages of a batch."""
        folder = SourceFolder(batch.file.root, follow_links=True)  # list_files has judged them
        for number, name in enumerate(batch.pages, start=batch.first_row):
            try:
                text = _decode(folder.read(name), name)
                yield SourceRecord(name, 1, {"name": name, "text": text}, key=f"{number:08}")
            except DataError as error:
                yield Reject(name, 1, error.code, error.message)


def _decode(data: bytes, name: str) -> str:
    """Decode a page: UTF-8, or what HTML declares. Raises DataError E201."""
    declared = CHARSET.search(data[:2048]) if name.lower().endswith(HTML) else None
    encoding = declared[1].decode() if declared else "utf-8-sig"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    try:
        return data.decode(encoding)
    except (UnicodeError, LookupError) as error:
        raise DataError("E201", f"{name!r} is not text in {encoding}: {error}.") from error
