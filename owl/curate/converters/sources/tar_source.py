# SPDX-License-Identifier: Apache-2.0
"""Tars as img2dataset and webdataset write them: members of the same key side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from owl.curate.converters.pictures import MAX_FILE_BYTES
from owl.curate.converters.records import ConvertOptions, Reject, SourceRecord
from owl.curate.converters.sources.source import Batch, SourceFile, stat_fingerprint
from owl.data.shards import tar
from owl.errors import DataError


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
        """Read the samples of the tar; those after damage are rejected together."""
        name, number = batch.file.name, 0
        with tar.mapped(batch.file.path) as view:
            try:
                members = tar.scan_members(view, shard=name)
                for number, (key, group) in enumerate(groupby(members, key=_key), start=1):
                    yield _read_sample(view, key, list(group), file=name, number=number)
            except DataError as error:
                # Members of the last sample before the damage may be behind it.
                rest = f"{error.message} This sample and all after it are not converted."
                yield Reject(name, max(number, 1), error.code, rest)


def _key(member: tar.Member) -> str:
    """Folder and name up to the first dot (of the name: folders may have dots)."""
    folder, slash, name = member.name.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _read_sample(
    view: memoryview, key: str, members: Sequence[tar.Member], *, file: str, number: int
) -> SourceRecord | Reject:
    if (size := sum(member.size for member in members)) > MAX_FILE_BYTES:
        return Reject(file, number, "E309", f"{key!r} has {size} bytes, over {MAX_FILE_BYTES}.")
    files = {member.name[len(key) + 1 :]: member.read(view) for member in members}
    if len(files) < len(members):
        return Reject(file, number, "E106", f"members of {key!r} share a name.")
    return SourceRecord(file, number, {"key": key, "files": files})
