# SPDX-License-Identifier: Apache-2.0
"""Find every sample of a shard, even of a damaged one.

The strict reader in tar.py stops at the first damage, which is right for training and useless for
a report. Here reading resumes at the next header that can be trusted, and the damage is assigned to
the sample whose file it hides.
"""

import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from owl.data.shards import tar
from owl.data.shards.schema import SampleProblem
from owl.errors import DataError

USTAR_MAGIC = b"ustar"
MAGIC_OFFSET = 257
NAME_BYTES = 100
TYPE_OFFSET = 156
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class TarDamage:
    """A place where the tar cannot be read."""

    code: str
    offset: int
    message: str
    key: str | None = None  # of the hidden file, if it is reliable
    starts_sample: bool = False  # the hidden file is a json
    covers_next: bool = False  # only a PAX block is hidden: its file is read as the next member
    hides_file: bool = True  # False: no file of any sample can have been here


@dataclass(slots=True)
class FoundSample:
    """The members of one sample, and the problems of the tar around them."""

    offset: int
    key: str | None = None  # None: its only header is unreadable
    members: list[tar.Member] = field(default_factory=list)
    problems: list[SampleProblem] = field(default_factory=list)
    awaits_json: bool = False  # only the PAX block of its json is damaged

    @property
    def has_json(self) -> bool:
        """Whether its first member is the json."""
        return bool(self.members) and self.members[0].file == "json"

    @property
    def is_loose_piece(self) -> bool:
        """Whether these are undamaged files whose json is elsewhere."""
        return bool(self.members) and not self.has_json and not self.problems


@dataclass(frozen=True, slots=True)
class FoundShard:
    """The samples of a tar in order, and its damage."""

    samples: list[FoundSample]
    damage: list[TarDamage]


def salvage(view: memoryview, *, shard: str) -> FoundShard:
    """Find every sample of a tar, however damaged it is.

    Args:
        view: the bytes of the tar.
        shard: for messages.
    """
    parts = list(_walk(view, shard=shard))
    damage = [part for part in parts if isinstance(part, TarDamage)]
    if len(damage) == len(parts):
        return FoundShard([], damage)  # not a tar, or no member of it is left
    samples = _join_pieces(_gather(parts))
    _check_names(samples)
    return FoundShard(samples, damage)


# Reading past damage.


def _walk(view: memoryview, *, shard: str) -> Iterator[tar.Member | TarDamage]:
    """Yield members and damage in the order of their offsets."""
    content_end = _content_end(view)
    offset = 0
    while offset < content_end:
        if not any(view[offset : offset + tar.BLOCK]):
            offset, damage = _skip_marker(view, offset)
            yield damage
            continue
        try:
            member = tar.read_member(view, offset, shard=shard)
        except DataError as error:
            behind = _next_header(view, offset + tar.BLOCK, content_end)
            # An intact PAX block before a damaged header: the damage is reported at the header.
            if not _is_pax(view, offset) or _peek(view, behind) or behind >= content_end:
                yield _damage(view, offset, behind, error)
            offset = behind
            continue
        if member.end > len(view):
            yield _cut_off(view, member)
            return
        yield member
        offset = member.end
    if len(view) - offset < tar.BLOCK:
        yield TarDamage(
            "E102",
            len(view),
            f"the tar ends at byte {len(view)} without an end marker. Copy the shard again.",
            hides_file=False,
        )


def _content_end(view: memoryview) -> int:
    """Number of bytes before the zeros at the end."""
    end = len(view)
    while end > 0:
        begin = max(0, end - CHUNK)
        kept = bytes(view[begin:end]).rstrip(b"\0")
        if kept:
            return begin + len(kept)
        end = begin
    return 0


def _skip_marker(view: memoryview, offset: int) -> tuple[int, TarDamage]:
    """Skip an end marker that data follows; return where the data begins, and the damage."""
    behind = offset
    while not any(view[behind : behind + tar.BLOCK]):
        behind += tar.BLOCK
    message = (
        f"there is data after the end marker at byte {offset}: from byte {behind} on. Readers stop "
        "at the marker, so write the shard again."
    )
    return behind, TarDamage("E103", offset, message, hides_file=False)


def _next_header(view: memoryview, offset: int, end: int) -> int:
    """Offset of the next block that looks like a header, damaged or not; `end` without one."""
    for block in range(offset, end, tar.BLOCK):
        if view[block + MAGIC_OFFSET : block + MAGIC_OFFSET + len(USTAR_MAGIC)] == USTAR_MAGIC:
            return block
    return -(-end // tar.BLOCK) * tar.BLOCK


def _damage(view: memoryview, offset: int, behind: int, error: DataError) -> TarDamage:
    """Describe a header that cannot be read; `behind` is where the next one starts."""
    is_covering = _is_pax(view, offset) and not _is_pax(view, behind)  # else the next file's own
    covered = _peek(view, behind) if is_covering else None
    if covered is not None:
        starts_sample = covered.file == "json"
    else:
        content = _file_header(view, offset) + tar.BLOCK
        starts_sample = bytes(view[content : content + 1]) == b"{"
    return TarDamage(
        error.code,
        offset,
        f"{error.message}{_damaged_name(view, offset) if error.code == 'E101' else ''}",
        starts_sample=starts_sample,
        covers_next=covered is not None,
        hides_file=error.code != "E104",
    )


def _file_header(view: memoryview, offset: int) -> int:
    """Offset of the header of the file itself: after its PAX block, if that can be read."""
    try:
        block = tarfile.TarInfo.frombuf(
            bytes(view[offset : offset + tar.BLOCK]), "utf-8", "replace"
        )
    except tarfile.HeaderError:
        return offset
    if block.type != tarfile.XHDTYPE or not 0 <= block.size < len(view):
        return offset
    return offset + tar.BLOCK + -(-block.size // tar.BLOCK) * tar.BLOCK


def _damaged_name(view: memoryview, offset: int) -> str:
    """Read the name in a header that cannot be trusted: a hint for the user, never a key."""
    name = bytes(view[offset : offset + NAME_BYTES]).split(b"\0")[0].decode("ascii", "replace")
    return f" The file name in it is {name!r}."


def _is_pax(view: memoryview, offset: int) -> bool:
    """Whether a damaged header is that of a PAX block, by its type or by its name."""
    block = bytes(view[offset : offset + tar.BLOCK])
    is_typed = block[TYPE_OFFSET : TYPE_OFFSET + 1] == tarfile.XHDTYPE
    return is_typed or b"PaxHeader" in block[:NAME_BYTES]


def _peek(view: memoryview, offset: int) -> tar.Member | None:
    try:
        return tar.read_member(view, offset, shard="")
    except DataError:
        return None


def _cut_off(view: memoryview, member: tar.Member) -> TarDamage:
    return TarDamage(
        "E102",
        member.header_offset,
        tar.cut_off_message(member, len(view)),
        key=member.key,
        starts_sample=member.file == "json",
    )


# From members to samples.


def _gather(parts: Iterable[tar.Member | TarDamage]) -> Iterator[FoundSample]:
    """Group members by key; assign each damage to the sample whose file it hides."""
    sample: FoundSample | None = None
    is_behind_end = False
    for part in parts:
        if isinstance(part, TarDamage) and not part.hides_file:
            is_behind_end = is_behind_end or part.code == "E103"
            continue
        if sample is None or not _belongs(part, sample):
            if sample is not None:
                yield sample
            sample = _begin_sample(part, is_behind_end=is_behind_end)
        _add(sample, part)
    if sample is not None:
        yield sample


def _begin_sample(part: tar.Member | TarDamage, *, is_behind_end: bool) -> FoundSample:
    offset = part.offset if isinstance(part, TarDamage) else part.header_offset
    sample = FoundSample(offset)
    if is_behind_end:
        sample.problems.append(SampleProblem("E103", "it is behind the tar's end marker."))
    return sample


def _belongs(part: tar.Member | TarDamage, sample: FoundSample) -> bool:
    """Whether a member, or what a damage hides, is part of the sample being gathered."""
    if isinstance(part, TarDamage):
        return not part.starts_sample
    if not sample.members:
        # Its json's header is unreadable: what follows without a json of its own is its media.
        return sample.awaits_json or part.file != "json"
    return part.key == sample.key


def _add(sample: FoundSample, part: tar.Member | TarDamage) -> None:
    if isinstance(part, TarDamage):
        sample.problems.append(SampleProblem(part.code, part.message))
        sample.awaits_json = part.covers_next and part.starts_sample
        sample.key = sample.key or part.key
        return
    if not sample.members:
        sample.key = part.key
    sample.members.append(part)


def _join_pieces(samples: Iterable[FoundSample]) -> list[FoundSample]:
    """Join the pieces of a sample whose members are apart (E107)."""
    joined: list[FoundSample] = []
    by_key: dict[str | None, FoundSample] = {}
    for sample in samples:
        first = by_key.get(sample.key)
        if first is not None and sample.is_loose_piece:
            first.problems.append(SampleProblem("E107", "its members are not side by side."))
            first.members += sample.members
            continue
        joined.append(sample)
        if sample.members:
            by_key.setdefault(sample.key, sample)
    return joined


def _check_names(samples: Iterable[FoundSample]) -> None:
    """Add E105, E106 and E108 to the samples that have them."""
    seen: set[str] = set()
    for sample in samples:
        for member in sample.members:
            sample.problems += _name_problems(member, seen)
        is_explained = any(p.code in ("E101", "E102", "E105") for p in sample.problems)
        if not sample.has_json and not is_explained:
            sample.problems.append(
                SampleProblem(
                    "E108", f"its first member is {sample.members[0].file!r}, not 'json'."
                )
            )


def _name_problems(member: tar.Member, seen: set[str]) -> Iterator[SampleProblem]:
    for check in (
        lambda: tar.check_name(member.key, member.file, shard=""),
        lambda: tar.check_unique(member.name, seen, shard=""),
    ):
        try:
            check()
        except DataError as error:
            yield SampleProblem(error.code, error.message)
