# SPDX-License-Identifier: Apache-2.0
"""The files of a source, and the batches into which they are cut for the workers."""

import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from owl.curate.converters.pictures import SourceFolder
from owl.curate.converters.records import ConvertError, ConvertOptions, Reject, SourceRecord
from owl.errors import DataError

GZIP_START = b"\x1f\x8b"
BROKEN_GZIP = (gzip.BadGzipFile, EOFError, zlib.error)
"""What reading a broken packed file raises; the first is an OSError, but the disk is well."""
MAX_SLUG = 80
"""Characters of a file name in a key; tar (USTAR) allows 155 for all but the last part."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One input file."""

    root: Path
    name: str  # relative to root
    parts: tuple[str, ...] = ()
    """Names of small files, relative to root, that are read together; `name` is that of all."""

    @property
    def path(self) -> Path:
        """Its complete path."""
        return self.root / self.name

    @property
    def size(self) -> int:
        """Bytes to read, for the progress line."""
        if self.parts:
            return sum((self.root / part).stat().st_size for part in self.parts)
        size = self.path.stat().st_size
        with self.path.open("rb") as stream:
            if stream.read(2) != GZIP_START:
                return size
            stream.seek(-4, os.SEEK_END)  # the unpacked size, of less than 4 GB
            return max(size, int.from_bytes(stream.read(4), "little"))

    @property
    def slug(self) -> str:
        """Its name without suffix, in the characters that keys and shard names may have."""
        stem = self.name[: -len(suffix)] if (suffix := Path(self.name).suffix) else self.name
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-") or "source"
        if len(plain) <= MAX_SLUG:
            return plain
        return f"{plain[: MAX_SLUG - 9]}-{short_hash(self.name.encode())[:8]}"


def open_source(file: SourceFile) -> IO[bytes]:
    """Open a file, packed with gzip or not, whatever its name; reads may raise BROKEN_GZIP."""
    stream = file.path.open("rb")
    packed = stream.read(2) == GZIP_START
    stream.seek(0)
    return gzip.open(stream) if packed else stream  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Line:
    """The text of one json record, or why it and all after it cannot be read."""

    number: int
    text: bytes
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Records that one worker converts into shards of their own."""

    file: SourceFile
    number: int  # within the file
    fingerprint: str  # differs when the records do
    source_bytes: int  # share of the file, for the progress line
    groups: Sequence[Sequence[Line]] = ()  # json: the lines of each record
    row_group: int = 0  # parquet
    first_row: int = 1  # parquet
    pages: Sequence[str] = ()  # names of pages

    @property
    def stem(self) -> str:
        """Start of the names of its shards, unique in a job."""
        return f"{self.file.slug}-{self.number:05}"


class Source(Protocol):
    """A kind of file: cuts it into batches, and reads the records of a batch."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of its files."""

    def read_batches(
        self, file: SourceFile, *, max_records: int, options: ConvertOptions
    ) -> Iterator[Batch]:
        """Cut a file into batches; runs in the main process."""

    def read_records(self, batch: Batch) -> Iterator[SourceRecord | Reject]:
        """Read the records of a batch; runs in a worker."""


def list_files(
    place: Path, suffixes: Sequence[str], *, follow_links: bool = False, together: bool = False
) -> list[SourceFile]:
    """List the input files of a kind: the file itself, or all under a folder, sorted.

    Hidden files and folders are ignored: caches, and the `._a.json` that some systems create.

    Args:
        place: the file or folder.
        suffixes: of the files.
        follow_links: trust links that lead out of the folder.
        together: return one source that consists of all files.

    Raises:
        ConvertError: there are none, one leads out of the folder, or two would share shard names.
    """
    if place.is_file():
        return [SourceFile(place.parent, place.name, (place.name,) if together else ())]
    files = [
        SourceFile(place, name)
        for name in _walk(place, follow_links)
        if name.lower().endswith(tuple(suffixes))
    ]
    if not files:
        raise ConvertError(f"--input {place} has no {_either(suffixes)} file.")
    _check_inside(SourceFolder(place, follow_links), files)
    if together:
        return [SourceFile(place, place.resolve().name, tuple(file.name for file in files))]
    _check_slugs(files)
    return files


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]


def short_hash(content: bytes) -> str:
    """Hash of the content, 16 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def stat_fingerprint(file: SourceFile) -> str:
    """Fingerprint of a file too large to be read for it: size and time."""
    found = file.path.stat()
    return short_hash(f"{found.st_size} {found.st_mtime_ns}".encode())


def _walk(folder: Path, follow_links: bool) -> list[str]:
    found: list[str] = []
    seen: set[str] = set()  # a link may lead back to a folder above it
    for parent, folders, names in os.walk(folder, followlinks=follow_links):
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in sorted(folders) if not name.startswith(".")]
        shown = [name for name in names if not name.startswith(".")]
        found += [os.path.relpath(os.path.join(parent, name), folder) for name in shown]
    return sorted(found)


def _check_inside(folder: SourceFolder, files: Sequence[SourceFile]) -> None:
    for file in files:
        try:
            folder.locate(file.name)
        except DataError as error:
            raise ConvertError(f"--input {folder.root}: {error.message}") from error


def _check_slugs(files: Sequence[SourceFile]) -> None:
    seen: dict[str, str] = {}
    for file in files:
        other = seen.setdefault(file.slug, file.name)
        if other != file.name:
            raise ConvertError(
                f"{other!r} and {file.name!r} would both write shards named {file.slug!r}. Rename "
                "one, or convert them into two folders."
            )
