# SPDX-License-Identifier: Apache-2.0
"""What is known of a shard without reading it: its index, and its record in dataset.json.

Beside `shard.tar` is `shard.tar.idx`: where each sample and member starts, a checksum of each
member, and the size of each picture, so that planning never reads a pixel. `dataset.json` lists the
shards of a folder, with their sizes, times and hashes when they were indexed.
"""

import hashlib
import json
import logging
import struct
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from owl.data.encode.images import picture_size
from owl.data.shards import tar
from owl.data.shards.checksum import crc32
from owl.data.shards.document import parse_json
from owl.data.shards.retry import Retry
from owl.data.shards.rules import size_problems, validate
from owl.data.shards.storage import LocalFolder, Storage
from owl.errors import DataError

logger = logging.getLogger("owl")

LITERAL_ERROR = "E206"
"""The one content error that a setting allows (data.special_literals=escape), so samples without
another one are indexed in full."""

DATASET_FILE = "dataset.json"
DATASET_SCHEMA = "owl3-dataset/1"
INDEX_SUFFIX = ".idx"
MAGIC = b"OWL3IDX1"
HEADER = struct.Struct("<8sIIQ16s")
"""Magic, samples, members, bytes of the tar, content hash of the tar."""

SAMPLE_ROW = np.dtype(
    [
        ("offset", "<u8"),  # of the first header within the tar
        ("length", "<u4"),  # bytes up to the end of the last member's padding
        ("members", "<u2"),
        ("error", "<u2"),  # number of the E-code of an invalid sample, 0 for a valid one
        ("first_member", "<u4"),
    ]
)
MEMBER_ROW = np.dtype(
    [
        ("offset", "<u4"),  # of the data, within the sample
        ("size", "<u4"),
        ("crc32", "<u4"),
        ("width", "<u2"),  # as displayed; 0 for the json
        ("height", "<u2"),
    ]
)
"""The json's row comes first, then one per media file in the order the document names them."""

SAMPLE_STRUCT = struct.Struct("<QIHHI")
MEMBER_STRUCT = struct.Struct("<IIIHH")
"""The same rows, to unpack them one sample at a time."""

Rows = NDArray[np.void]
MemberRow = tuple[int, int, int, int, int]
"""Offset within the sample, size, checksum, width and height of one file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRecord:
    """The entry of one shard in dataset.json."""

    file: str
    samples: int
    bytes: int
    mtime_ns: int
    tar_hash: str
    index_hash: str
    errors: Mapping[str, int] = field(default_factory=dict)  # code -> invalid samples


def index_shard(path: Path, report: Callable[[DataError], None] = logger.warning) -> ShardRecord:
    """Write `path`.idx and return the record for dataset.json.

    Args:
        path: the tar.
        report: called for every sample that breaks a content rule (E2xx, E3xx). Such samples are
            marked in the index and are never planned.

    Raises:
        DataError: E101..E108, the tar itself is damaged.
    """
    before = path.stat()
    samples, members, tar_hash = _scan(path, report)
    content = HEADER.pack(MAGIC, len(samples), len(members), before.st_size, tar_hash)
    content += np.array(samples, SAMPLE_ROW).tobytes() + np.array(members, MEMBER_ROW).tobytes()
    replace_file(index_path(path), content)
    errors = Counter(f"E{row[3]}" for row in samples if row[3])
    return ShardRecord(
        file=path.name,
        samples=len(samples),
        bytes=before.st_size,
        mtime_ns=before.st_mtime_ns,
        tar_hash=tar_hash.hex(),
        index_hash=content_hash(content).hex(),
        errors=dict(sorted(errors.items())),
    )


def index_path(shard: Path) -> Path:
    """Path of a shard's index."""
    return shard.with_name(shard.name + INDEX_SUFFIX)


def invalid_samples(path: Path) -> Iterator[DataError]:
    """Yield again what index_shard reported, reading only the samples that the index marks."""
    samples = ShardIndex.load(index_path(path)).samples
    for row in samples[samples["error"] != 0]:
        start, length = int(row["offset"]), int(row["length"])
        with tar.mapped(path) as view:
            data = bytes(view[start : start + length])
        group = tar.split_members(data, shard=path.name)
        problem, _ = _sample_rows(memoryview(data), group)
        if problem:
            yield DataError(problem.code, problem.message, shard=path.name, key=group[0].key)


Row = tuple[int, ...]


def _scan(path: Path, report: Callable[[DataError], None]) -> tuple[list[Row], list[Row], bytes]:
    """Return the rows of all samples and of all members of a tar, and the hash of its content."""
    samples: list[Row] = []
    members: list[Row] = []
    with tar.mapped(path) as view:
        for group in tar.group_by_key(tar.scan_members(view, shard=path.name), shard=path.name):
            problem, rows = _sample_rows(view, group)
            if problem:
                report(DataError(problem.code, problem.message, shard=path.name, key=group[0].key))
            error = int(problem.code[1:]) if problem else 0
            start = group[0].header_offset
            samples.append((start, group[-1].end - start, len(rows), error, len(members)))
            members += rows
        tar_hash = content_hash(view)
    return samples, members, tar_hash


def _sample_rows(
    view: memoryview, group: Sequence[tar.Member]
) -> tuple[DataError | None, list[Row]]:
    """The first content rule that a sample breaks, if any, and the rows of its members."""
    try:
        literal, rows = _good_rows(view, group)
    except DataError as problem:
        return problem, [_member_row(view, group, member) for member in group]
    return literal, rows


def _good_rows(view: memoryview, group: Sequence[tar.Member]) -> tuple[DataError | None, list[Row]]:
    """Member rows of a sample that keeps every content rule, but perhaps that of literals.

    Returns:
        E206 where it breaks that one, and the rows.

    Raises:
        DataError: the first other rule that it breaks.
    """
    by_file = {member.file: member for member in group}
    document, problems = validate(parse_json(by_file.pop("json").read(view)), by_file.keys())
    literal = None
    for problem in problems:
        error = DataError(problem.code, problem.message)
        if problem.code != LITERAL_ERROR:
            raise error
        literal = literal or error
    assert document is not None, "the wrong shape is a problem"
    sizes = {file: picture_size(by_file[file].read(view)) for file in document.files}
    for problem in size_problems(document, sizes):
        raise DataError(problem.code, problem.message)
    rows = [_member_row(view, group, group[0])]
    rows += [_member_row(view, group, by_file[file], size) for file, size in sizes.items()]
    return literal, rows


def _member_row(
    view: memoryview,
    group: Sequence[tar.Member],
    member: tar.Member,
    size: tuple[int, int] = (0, 0),
) -> Row:
    crc = crc32(view[member.data_offset : member.data_offset + member.size])
    return (member.data_offset - group[0].header_offset, member.size, crc, *size)


def content_hash(content: bytes | memoryview) -> bytes:
    """Hash of a shard's or an index's bytes, 16 bytes long."""
    return hashlib.blake2b(content, digest_size=16).digest()


def replace_file(path: Path, content: bytes) -> None:
    """Write a file atomically: a reader sees the old content or the new one."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def write_dataset(folder: Path, shards: Sequence[ShardRecord]) -> None:
    """Write dataset.json for the shards of a folder."""
    description = {
        "schema": DATASET_SCHEMA,
        "samples": sum(shard.samples for shard in shards),
        "shards": [asdict(shard) for shard in sorted(shards, key=lambda shard: shard.file)],
    }
    replace_file(folder / DATASET_FILE, (json.dumps(description, indent=1) + "\n").encode())


def read_records(folder: Path | Storage, retry: Retry | None = None) -> list[ShardRecord]:
    """Read dataset.json. Raises DataError E203 if it cannot be read or is something else."""
    storage = LocalFolder(folder) if isinstance(folder, Path) else folder
    try:
        content = (retry or Retry()).read_file(storage, DATASET_FILE)
        if content is None:
            raise FileNotFoundError(DATASET_FILE)
        description = json.loads(content)
        if description["schema"] != DATASET_SCHEMA:
            raise ValueError(f"schema {description['schema']!r}, not {DATASET_SCHEMA!r}")
        records = [ShardRecord(**shard) for shard in description["shards"]]
        _check_names(records)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "E203",
            f"{storage.location}/{DATASET_FILE} cannot be read: {error!r}. "
            f"{prepare_hint(storage.location)}",
        ) from error
    return records


def _check_names(records: Sequence[ShardRecord]) -> None:
    """Raise ValueError if the file of a record would be outside its folder."""
    for record in records:
        if record.file != Path(record.file).name or record.file in ("", ".."):
            raise ValueError(f"the shard name {record.file!r} is not a plain file name")


def prepare_hint(folder: Path | str) -> str:
    """The next step, with which most messages about a shard end."""
    return f"Run owl data prepare {folder}"


class ShardIndex:
    """The arrays of one `.idx` file."""

    def __init__(self, samples: Rows, members: Rows, content_hash: bytes) -> None:
        self.samples = samples  # SAMPLE_ROW per sample
        self.members = members  # MEMBER_ROW per member
        self.content_hash = content_hash
        # numpy takes longer to look up fields by name than a small sample takes to read, so the
        # rows of one sample are unpacked from the bytes of the arrays.
        self._sample_bytes = samples.view(np.uint8).data
        self._member_bytes = members.view(np.uint8).data

    def __reduce__(self) -> tuple[type[Self], tuple[Rows, Rows, bytes]]:
        return type(self), (
            self.samples,
            self.members,
            self.content_hash,
        )  # not the views

    def row(self, sample: int) -> tuple[int, int, int, int, int]:
        """Return offset, length, members, error and first member of a sample."""
        return SAMPLE_STRUCT.unpack_from(self._sample_bytes, sample * SAMPLE_STRUCT.size)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read an index file. Raises DataError E109 if it is not one."""
        return cls.parse(path.read_bytes() if path.is_file() else b"", path)

    @classmethod
    def parse(cls, content: bytes, name: Path | str) -> Self:
        """Parse the content of an index file. Raises DataError E109 if it is not one."""
        if len(content) < HEADER.size or not content.startswith(MAGIC):
            raise DataError("E109", f"{name} is not an index. {prepare_hint(Path(name).parent)}")
        _, num_samples, num_members, _, _ = HEADER.unpack_from(content)
        if len(content) != HEADER.size + num_samples * SAMPLE_ROW.itemsize + (
            num_members * MEMBER_ROW.itemsize
        ):
            raise DataError("E109", f"{name} is truncated. {prepare_hint(Path(name).parent)}")
        samples = np.frombuffer(content, SAMPLE_ROW, num_samples, HEADER.size)
        start = HEADER.size + samples.nbytes
        members = np.frombuffer(content, MEMBER_ROW, num_members, start)
        return cls(samples, members, content_hash(content))

    def members_of(self, sample: int) -> list[MemberRow]:
        """Return the rows of a sample's members, the json first."""
        _, _, count, _, first = self.row(sample)
        return self._member_rows(first, count)

    def place(self, sample: int) -> tuple[int, int, int, list[MemberRow]]:
        """Return offset, length, error and members of a sample, in one look-up."""
        offset, length, count, error, first = self.row(sample)
        return offset, length, error, self._member_rows(first, count)

    def _member_rows(self, first: int, count: int) -> list[MemberRow]:
        rows = self._member_bytes[first * MEMBER_STRUCT.size : (first + count) * MEMBER_STRUCT.size]
        return list(MEMBER_STRUCT.iter_unpack(rows))


def check_unchanged(storage: Storage, record: ShardRecord) -> None:
    """Raise E109 if a shard is not the one that was indexed.

    A copy often has another time stamp, so then the content is compared; that costs one read of the
    shard, which preparing the folder again avoids. Behind a URL only the size is compared: other
    changes fail their checksum when a sample is read (E110).
    """
    problem = _change(storage, record)
    if problem:
        raise DataError("E109", f"{problem}. {prepare_hint(storage.location)}", shard=record.file)


def _change(storage: Storage, record: ShardRecord) -> str | None:
    found = storage.facts(record.file)
    if found is None or storage.facts(record.file + INDEX_SUFFIX) is None:
        return "the shard or its index is missing"
    if found.size not in (None, record.bytes):
        return f"it had {record.bytes} bytes when it was indexed and has {found.size} now"
    if not isinstance(storage, LocalFolder) or found.mtime_ns == record.mtime_ns:
        return None
    logger.warning(
        "shard %s has another time stamp than when it was indexed: comparing its content. If it is "
        "a copy, run owl data prepare on its folder to avoid this.",
        record.file,
    )
    if hash_file(storage.path / record.file) == record.tar_hash:
        return None
    return "its content changed after it was indexed"


def hash_file(path: Path) -> str:
    """Content hash of a shard, as dataset.json records it."""
    with tar.mapped(path) as view:
        return content_hash(view).hex()
