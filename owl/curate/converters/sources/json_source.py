# SPDX-License-Identifier: Apache-2.0
"""Json files: one record per line, or one array of records, read in parts."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from typing import Any, TextIO

from owl.curate.converters.records import ConvertOptions, Reject, SourceRecord
from owl.curate.converters.sources.json_text import parse_json
from owl.curate.converters.sources.source import (
    BROKEN_GZIP,
    Batch,
    Line,
    SourceFile,
    open_source,
    short_hash,
)
from owl.errors import DataError

BATCH_BYTES = 32 << 20
"""Limit of the text of a batch, which is sent to a worker; lines of MMC4 contain large matrices."""
WINDOW_CHARS = 1 << 20
MAX_RECORD_CHARS = 64 << 20
"""A longer record of an array is taken for a broken file."""

Group = tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class JsonSource:
    """`*.jsonl` and `*.json`, also with `.gz`; the first character decides which layout it has."""

    suffixes: tuple[str, ...] = (".jsonl", ".json", ".jsonl.gz", ".json.gz")

    def read_batches(
        self, file: SourceFile, *, max_records: int, options: ConvertOptions
    ) -> Iterator[Batch]:
        """Cut a file into batches of at most max_records records."""
        return batch_lines(read_lines(file), file, max_records=max_records, options=options)

    def read_records(self, batch: Batch) -> Iterator[SourceRecord | Reject]:
        """Parse the lines of a batch."""
        for group in batch.groups:
            yield _read_group(group, batch.file.name)


def batch_lines(
    lines: Iterable[Line], file: SourceFile, *, max_records: int, options: ConvertOptions
) -> Iterator[Batch]:
    """Cut lines of json into batches of at most max_records records."""
    groups = _groups(lines, options.turns_of)
    for number, part in enumerate(_bounded(groups, max_records)):
        texts = [b"%d %s" % (line.number, line.text) for group in part for line in group]
        yield Batch(
            file=file,
            number=number,
            fingerprint=short_hash(b"\n".join(texts)),
            source_bytes=sum(len(line.text) for group in part for line in group),
            groups=part,
        )


def _read_group(group: Sequence[Line], file: str) -> SourceRecord | Reject:
    values = []
    for line in group:
        if line.problem:
            return Reject(file, line.number, "E201", line.problem)
        try:
            values.append(parse_json(line.text))
        except DataError as error:
            return Reject(file, line.number, error.code, error.message)
    # A tuple, which json cannot give: a record that is a list is no group.
    return SourceRecord(file, group[0].number, tuple(values) if len(group) > 1 else values[0])


def read_lines(file: SourceFile) -> Iterator[Line]:
    """Yield the text of each record and its number: its line, or its place in an array."""
    try:
        with open_source(file) as stream:
            start = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    except BROKEN_GZIP as error:
        return iter([Line(1, b"", f"the file cannot be unpacked: {error}. Copy it again.")])
    is_array = start.startswith(b"[") and not _starts_with_a_whole_list(file)
    return _array_lines(file) if is_array else _plain_lines(file)


def _starts_with_a_whole_list(file: SourceFile) -> bool:
    """Whether the first line of a `*.jsonl` is a list and others follow: it is a bad record."""
    if not file.name.removesuffix(".gz").endswith(".jsonl"):
        return False
    with open_source(file) as stream:
        try:
            parse_json(stream.readline(WINDOW_CHARS).removeprefix(b"\xef\xbb\xbf"))
            return any(line.strip() for line in stream)
        except (DataError, *BROKEN_GZIP):
            return False


def _plain_lines(file: SourceFile) -> Iterator[Line]:
    number = 0
    with open_source(file) as stream:
        try:
            for number, line in enumerate(stream, start=1):
                text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if text.strip():
                    yield Line(number, text)
        except BROKEN_GZIP as error:
            rest = f"the file cannot be unpacked from here on: {error}. Copy it again."
            yield Line(number + 1, b"", rest)


def _array_lines(file: SourceFile) -> Iterator[Line]:
    with TextIOWrapper(open_source(file), encoding="utf-8-sig", newline="\n") as stream:
        elements = _Window(stream).elements()
        number = 0
        try:
            # Elements are numbered, not lines: json.dump writes an entire array on one line.
            for number, text in enumerate(elements, start=1):
                yield Line(number, text)
        except (ValueError, *BROKEN_GZIP) as error:  # of json, of UTF-8, of the packing
            rest = f"the array cannot be read from here on: {error}. Nothing after it is converted."
            yield Line(number + 1, b"", rest)


class _Window:
    """A window over a long array, moved from element to element.

    It returns the text of each element, which ijson cannot: strict parsing of that text rejects a
    single record, where an error inside a streaming parser would lose the rest of the file.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._text = ""
        self._at = 0
        self._decoder = json.JSONDecoder()

    def elements(self) -> Iterator[bytes]:
        """Yield the text of each element of the array. Raises ValueError where it is broken."""
        self._expect("[")
        if self._peek() == "]":
            self._expect("]")
        else:
            yield self._element()
            while self._peek() == ",":
                self._expect(",")
                yield self._element()
            self._expect("]")
        if self._peek():
            raise ValueError("there is text after the array")

    def _element(self) -> bytes:
        self._peek()
        end = self._find_end()
        text = self._text[self._at : end]
        self._at = end
        return text.encode()

    def _find_end(self) -> int:
        """Return the end of the element that starts here, after reading all of it."""
        while True:
            try:
                _, end = self._decoder.raw_decode(self._text, self._at)
                if end < len(self._text) or not self._fill():
                    return end  # a number at the window's end may have more digits
            except (json.JSONDecodeError, RecursionError) as error:
                if closed := _end_of_brackets(self._text, self._at):
                    return closed  # a record of its own, which is rejected when it is read
                if len(self._text) > MAX_RECORD_CHARS or not self._fill():
                    raise ValueError(str(error).partition(":")[0]) from error

    def _expect(self, letter: str) -> None:
        if self._peek() != letter:
            raise ValueError(f"expected {letter!r}, found {self._peek()!r}")
        self._at += 1

    def _peek(self) -> str:
        """Return the next character that is not a space; empty at the end of the file."""
        while True:
            while self._at < len(self._text):
                if not self._text[self._at].isspace():
                    return self._text[self._at]
                self._at += 1
            if not self._fill():
                return ""

    def _fill(self) -> bool:
        """Read more, twice as much each time an element does not fit; False at the end."""
        more = self._stream.read(max(WINDOW_CHARS, len(self._text) - self._at))
        self._text, self._at = self._text[self._at :] + more, 0
        return bool(more)


_STRING_OR_BRACKET = re.compile(r"""("(?:[^"\\]++|\\.)*+(?:"|\\?\Z))|([\[{])|([\]}])""", re.DOTALL)


def _end_of_brackets(text: str, start: int) -> int | None:
    """Return where the brackets that open at `start` are closed; None if they are not, or wrongly.

    The parser does not say where a record ends that is nested too deeply or is not quite json.
    """
    open_: list[str] = []
    for found in _STRING_OR_BRACKET.finditer(text, start) if text[start] in "[{" else ():
        if found[2]:
            open_.append("]" if found[2] == "[" else "}")
        elif found[3] and open_.pop() != found[3]:
            return None
        if not open_:
            return found.end()
    return None


def _groups(lines: Iterable[Line], turns_of: str | None) -> Iterator[Group]:
    """Group lines into records: one each, or consecutive ones with the same value in a field."""
    group: list[Line] = []
    shared: Any = None
    for line in lines:
        value = _field(line, turns_of)
        if group and (turns_of is None or value is None or value != shared):
            yield tuple(group)
            group = []
        group.append(line)
        shared = value
    if group:
        yield tuple(group)


def _field(line: Line, name: str | None) -> Any:
    """Return a field of a record; None if it is missing or the record cannot be read."""
    if name is None or line.problem:
        return None
    try:
        value = parse_json(line.text)
    except DataError:
        return None
    return value.get(name) if isinstance(value, dict) else None


def _bounded(groups: Iterable[Group], max_records: int) -> Iterator[tuple[Group, ...]]:
    part: list[Group] = []
    size = 0
    for group in groups:
        part.append(group)
        size += sum(len(line.text) for line in group)
        if len(part) >= max_records or size >= BATCH_BYTES:
            yield tuple(part)
            part, size = [], 0
    if part:
        yield tuple(part)
