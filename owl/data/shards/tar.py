# SPDX-License-Identifier: Apache-2.0
"""The tar container: a strict reader of member headers, and a reproducible writer.

Python's tarfile and webdataset both skip damage silently (after a corrupt header in the middle the
rest of the shard is lost without an error). The reader here has to account for every byte.
"""

import io
import mmap
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from owl.errors import DataError

BLOCK = 512
MAX_DIGITS = 20
"""Of a number of bytes. Python raises ValueError for very long numbers."""
KEY_PATTERN = re.compile(r"[A-Za-z0-9_/-]+")
FILE_PATTERN = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


@dataclass(frozen=True, slots=True)
class Member:
    """One file inside a tar: the offsets of its header and its data."""

    name: str
    header_offset: int  # of its first header, PAX block included
    data_offset: int
    size: int

    @property
    def key(self) -> str:
        """Sample that the file belongs to: its name up to the first dot."""
        return self.name.partition(".")[0]

    @property
    def file(self) -> str:
        """Its name without the key: "json", "m0000.jpg"."""
        return self.name.partition(".")[2]

    @property
    def end(self) -> int:
        """First byte after the data and its padding."""
        return self.data_offset + _padded(self.size)

    def read(self, data: bytes | memoryview) -> bytes:
        """Return its content, out of the bytes in which its header was read."""
        return bytes(data[self.data_offset : self.data_offset + self.size])


@contextmanager
def mapped(path: Path) -> Iterator[memoryview]:
    """Map a tar into memory while it is read. An empty file, which mmap refuses, gives no bytes."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            yield memoryview(b"")
            return
        with (
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
            memoryview(content) as view,
        ):
            yield view


def scan_members(view: memoryview, *, shard: str) -> Iterator[Member]:
    """Yield every member of a tar, by reading its headers only.

    Raises:
        DataError: E101 bad header, E102 truncated, E103 data after the end, E104 not a plain file.
    """
    offset = 0
    while any(_block(view, offset, shard=shard)):
        member = read_member(view, offset, shard=shard)
        if member.end > len(view):
            raise DataError("E102", cut_off_message(member, len(view)), shard=shard)
        yield member
        offset = member.end
    if any(view[offset:]):
        raise DataError(
            "E103", f"there is data after the end marker at byte {offset}.", shard=shard
        )


def cut_off_message(member: Member, size: int) -> str:
    """Describe a member whose data goes beyond the end of a tar of `size` bytes."""
    return (
        f"{member.name!r} should have {member.size} bytes from byte {member.data_offset} on, but "
        f"the tar has {size}. Copy the shard again."
    )


def split_members(data: bytes, *, shard: str) -> list[Member]:
    """Return the members in the byte range of one sample, which has no end marker."""
    view = memoryview(data)
    members: list[Member] = []
    offset = 0
    while offset < len(data):
        members.append(read_member(view, offset, shard=shard))
        offset = members[-1].end
    return members


def read_member(view: memoryview, offset: int, *, shard: str) -> Member:
    """Read the header at `offset`, and the PAX block before it if there is one.

    webdataset writes such a block for every member, since its time stamps have fractions.

    Raises:
        DataError: E101 bad header, E102 truncated, E104 not a plain file.
    """
    start, overrides = offset, dict[str, str]()
    info = _read_header(view, offset, shard=shard)
    while info.type == tarfile.XHDTYPE:
        data = bytes(view[offset + BLOCK : offset + BLOCK + info.size])
        overrides.update(_pax_records(data, offset, shard=shard))
        offset += BLOCK + _padded(info.size)
        info = _read_header(view, offset, shard=shard)
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise DataError(
            "E104",
            f"{info.name!r} at byte {offset} is not a plain file (tar type {info.type!r}). Write "
            "shards with owl.data.shards.dataset.ShardWriter, or with tar --format=ustar and no "
            "folders.",
            shard=shard,
        )
    size = _pax_number(overrides["size"], start, shard) if "size" in overrides else info.size
    return Member(overrides.get("path", info.name), start, offset + BLOCK, size)


def _block(view: memoryview, offset: int, *, shard: str) -> bytes:
    block = bytes(view[offset : offset + BLOCK])
    if len(block) < BLOCK:
        raise DataError(
            "E102",
            f"the tar ends at byte {len(view)} without an end marker. Copy the shard again.",
            shard=shard,
        )
    return block


def _read_header(view: memoryview, offset: int, *, shard: str) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(_block(view, offset, shard=shard), "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise DataError(
            "E101", f"no tar header at byte {offset}: {error}. Copy the shard again.", shard=shard
        ) from error
    if info.size < 0:  # base-256 numbers have a sign; the next offset would be before this one
        raise DataError(
            "E101",
            f"the header at byte {offset} has a size of {info.size} bytes. Write the shard again.",
            shard=shard,
        )
    return info


def _pax_number(value: str, offset: int, shard: str) -> int:
    """Parse a size in a PAX block: decimal digits and nothing else, so never negative."""
    if not _is_decimal(value):
        raise DataError(
            "E101",
            f"the PAX block at byte {offset} has size={value!r:.40}, which is not a number of "
            "bytes. Write the shard again.",
            shard=shard,
        )
    return int(value)


def _is_decimal(value: str) -> bool:
    return value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS


def _pax_records(data: bytes, offset: int, *, shard: str) -> Iterator[tuple[str, str]]:
    """Yield the "length key=value" lines of a PAX block."""
    while data.strip(b"\0"):
        length, _, rest = data.partition(b" ")
        if not _is_decimal(length.decode("ascii", "replace")) or not (
            len(length) + 1 < int(length) <= len(data)
        ):
            raise DataError("E101", f"the PAX block at byte {offset} is broken.", shard=shard)
        key, _, value = (
            rest[: int(length) - len(length) - 2].decode("utf-8", "replace").partition("=")
        )
        yield key, value
        data = data[int(length) :]


def _padded(size: int) -> int:
    """Bytes that the data of a file of this size takes in a tar."""
    return -(-size // BLOCK) * BLOCK


def group_by_key(members: Iterator[Member], *, shard: str) -> Iterator[list[Member]]:
    """Yield the members of each sample.

    Raises:
        DataError: E105 illegal name, E106 name used twice, E107 members apart, E108 no json.
    """
    seen_names: set[str] = set()
    seen_keys: set[str] = set()
    group: list[Member] = []
    for member in members:
        check_name(member.key, member.file, shard=shard)
        check_unique(member.name, seen_names, shard=shard)
        if group and member.key != group[0].key:
            yield _check_group(group, seen_keys, shard=shard)
            group = []
        group.append(member)
    if group:
        yield _check_group(group, seen_keys, shard=shard)


def check_unique(name: str, seen: set[str], *, shard: str) -> None:
    """Raise E106 for a name that is in `seen`; add it otherwise."""
    folded = name.casefold()  # webdataset lower-cases suffixes
    if folded in seen:
        raise DataError("E106", f"{name!r} is there twice, ignoring upper case.", shard=shard)
    seen.add(folded)


def check_name(key: str, file: str, *, shard: str) -> None:
    """Raise E105 for the name of a member that webdataset would split or drop silently."""
    if not KEY_PATTERN.fullmatch(key) or not FILE_PATTERN.fullmatch(file):
        raise DataError(
            "E105",
            f"the name {key + '.' + file!r} must be a key of letters, digits, _ / - and a "
            "lower-case suffix, joined by a dot.",
            shard=shard,
        )


def _check_group(group: list[Member], seen_keys: set[str], *, shard: str) -> list[Member]:
    key = group[0].key
    if key in seen_keys:
        raise DataError("E107", "its members are not side by side.", shard=shard, key=key)
    seen_keys.add(key)
    if group[0].file != "json":
        raise DataError(
            "E108", f"its first member is {group[0].file!r}, not 'json'.", shard=shard, key=key
        )
    return group


class TarWriter:
    """Writes plain USTAR files whose bytes depend only on names and contents.

    The tar gets its name only when it is complete: a killed writer leaves a `.tmp` file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        self._tar = tarfile.open(self._temporary, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def write(self, name: str, data: bytes) -> None:
        """Append one file."""
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.mode = len(data), 0, 0o644
        self._tar.addfile(info, io.BytesIO(data))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tar.close()
        if error is None:
            self._temporary.replace(self.path)
        else:
            self._temporary.unlink()
