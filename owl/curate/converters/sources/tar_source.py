# SPDX-License-Identifier: Apache-2.0
"""Tars of other projects: img2dataset's, webdataset's, or what `tar cf x.tar .` makes of a folder.

Python's tarfile knows the formats of all writers (folders, links, long names); its silence about
damage is made up for here: every byte belongs to a member, is zero, or is reported.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from owl.curate.converters.records import ConvertOptions, Reject, SourceRecord
from owl.curate.converters.sources.source import Batch, SourceFile, stat_fingerprint
from owl.portable.picture_reader_owl import MAX_FILE_BYTES

BLOCK = 512
_DIGITS = re.compile("[0-9]+")
TYPE = 156
"""Place of a member's type in its header."""


@dataclass(slots=True)
class Group:
    """The members of one sample, in the order of the tar."""

    number: int
    members: list[tuple[str, tarfile.TarInfo]] = field(default_factory=list)  # with their suffixes
    damage: str = ""
    """What is wrong beside one of them: others may have been there."""


@dataclass(frozen=True, slots=True)
class TarSource:
    """`*.tar`; each tar is one batch."""

    suffixes: tuple[str, ...] = (".tar",)

    def read_batches(
        self, file: SourceFile, *, max_records: int, options: ConvertOptions
    ) -> Iterator[Batch]:
        """Yield the tar as one batch."""
        yield Batch(
            file=file,
            number=0,
            fingerprint=stat_fingerprint(file),
            source_bytes=file.path.stat().st_size,
        )

    def read_records(self, batch: Batch) -> Iterator[SourceRecord | Reject]:
        """Read the samples of the tar; those beside damage are rejected, those after it are not."""
        name = batch.file.name
        try:
            # Zeros are skipped, and so is anything that is no header: what was skipped is checked.
            with tarfile.open(batch.file.path, "r:", ignore_zeros=True, encoding="utf-8") as tar:
                groups, damage = _groups(tar, batch.file.path)
                if damage and not groups:
                    yield Reject(name, 1, "E101", damage)
                for key, group in groups.items():
                    yield _read_sample(tar, key, group, file=name)
        except tarfile.TarError as error:
            yield Reject(name, 1, "E101", f"the tar cannot be read: {error}. Copy it again.")


def _groups(tar: tarfile.TarFile, path: Path) -> tuple[dict[str, Group], str]:
    """Group the members by sample, wherever in the tar they are; also return what is damaged."""
    groups: dict[str, Group] = {}
    last: Group | None = None
    end, lost = 0, ""
    with path.open("rb") as stream:
        size = path.stat().st_size
        for member, following in _members(tar, size):
            damage = _damage(stream, end, member.offset if member else size)
            end, lost = following, damage or lost
            group = None
            if member and not member.isdir():
                key, suffix = _key(member.name)
                group = groups.setdefault(key, Group(len(groups) + 1))
                group.members.append((suffix, member))
            for beside in (last, group):
                if beside and damage:
                    beside.damage = damage
            last = group or last
    return groups, lost


def _members(tar: tarfile.TarFile, size: int) -> Iterator[tuple[tarfile.TarInfo | None, int]]:
    """Yield each member and the place where the next should start; None stands for the end."""
    while tar.offset < size:
        try:
            member = tar.next()
        except tarfile.TarError:  # the second of two headers is damaged: go on behind the first
            tar.offset += BLOCK
            continue
        if member is None:
            break
        if not _DIGITS.fullmatch(member.pax_headers.get("size", "0")) or member.size < 0:
            # tarfile takes "-5", "1_0" and others for sizes: reading could go in a circle.
            tar.offset = member.offset_data
            continue
        yield member, tar.offset
    yield None, size


def _damage(stream: BinaryIO, start: int, end: int) -> str:
    """Return what is wrong with the bytes between two members, which should be zeros, if any."""
    if start > end:
        return f"the tar ends at byte {end}, inside of a member. Copy it again."
    stream.seek(start)
    position = start
    while block := stream.read(min(BLOCK, end - position)):
        if block[TYPE : TYPE + 1] == tarfile.XGLTYPE:  # a header about the whole tar, with its text
            position += 2 * BLOCK
            stream.seek(position)
            continue
        if any(block):
            return (
                f"bytes {start} to {end} are damaged. The samples beside them are not converted, "
                "and others may have been there. Copy the tar again."
            )
        position += len(block)
    return ""


def _key(name: str) -> tuple[str, str]:
    """Folder and name up to the first dot (of the name: folders may have dots), and the suffix."""
    # tarfile keeps bytes that are not UTF-8 as surrogates, which no json may hold.
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    folder, slash, file = text.removeprefix("./").rpartition("/")
    stem, _, suffix = file.partition(".")
    return folder + slash + stem, suffix.lower()


def _read_sample(
    tar: tarfile.TarFile, key: str, group: Group, *, file: str
) -> SourceRecord | Reject:
    number = group.number
    if group.damage:
        return Reject(file, number, "E101", f"{key!r}: {group.damage}")
    files: dict[str, bytes] = {}
    for suffix, member in group.members:
        if suffix in files:
            return Reject(file, number, "E106", f"members of {key!r} share the name {suffix!r}.")
        try:
            stream = tar.extractfile(member)  # a link gives what it names inside of this tar
        except KeyError:
            stream = None
        if stream is None:
            problem = f"{member.name!r} is a link to nothing in the tar, or not a file."
            return Reject(file, number, "E104", problem)
        files[suffix] = stream.read(MAX_FILE_BYTES + 1)
        if (size := sum(map(len, files.values()))) > MAX_FILE_BYTES:
            return Reject(file, number, "E309", f"{key!r} has over {MAX_FILE_BYTES} bytes: {size}.")
    return SourceRecord(file, number, {"key": key, "files": files})
