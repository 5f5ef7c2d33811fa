# SPDX-License-Identifier: Apache-2.0
"""Every sample of a shard, also of a damaged one.

The strict reader in tar.py stops at the first fault, which is right for training and useless for a
report: here reading goes on at the next header that can be trusted, and what was passed over is
given to the sample that it belonged to.
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
    """A place where the tar cannot be read as it should be."""

    code: str
    offset: int
    message: str
    key: str | None = None  # of the file, where it can be relied upon
    starts_sample: bool = False  # the file whose header this was is a json
    covers_next: bool = False  # a PAX block was hit: the file itself is read as the next member
    holds_file: bool = True  # False: no file of any sample can have been here


@dataclass(slots=True)
class FoundSample:
    """The members of one sample, and what is wrong with how they lie in the tar."""

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
        """Whether these are sound files whose json lies elsewhere."""
        return bool(self.members) and not self.has_json and not self.problems


@dataclass(frozen=True, slots=True)
class FoundShard:
    """All that a tar holds: its samples in order, and the faults of the tar itself."""

    samples: list[FoundSample]
    damages: list[TarDamage]


def salvage(view: memoryview, *, shard: str) -> FoundShard:
    """Find every sample of a tar, however damaged it is.

    Args:
        view: the whole tar.
        shard: for messages.
    """
    things = list(_walk(view, shard=shard))
    damages = [thing for thing in things if isinstance(thing, TarDamage)]
    if len(damages) == len(things):
        return FoundShard([], damages)  # no tar at all, or nothing of one is left
    samples = _join_pieces(list(_gather(things)))
    _check_names(samples)
    return FoundShard(samples, damages)


# Reading on behind damage.


def _walk(view: memoryview, *, shard: str) -> Iterator[tar.Member | TarDamage]:
    """Yield members and faults in the order in which they lie."""
    content_end = _content_end(view)
    offset = 0
    while offset < content_end:
        if not any(view[offset : offset + tar.BLOCK]):
            offset, damage = _pass_marker(view, offset)
            yield damage
            continue
        try:
            member = tar.read_member(view, offset, shard=shard)
        except DataError as error:
            behind = _next_header(view, offset + tar.BLOCK, content_end)
            # A sound PAX block before a damaged header: the fault is told at the header.
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
            holds_file=False,
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


def _pass_marker(view: memoryview, offset: int) -> tuple[int, TarDamage]:
    """Go over an end marker that is none: where things go on, and the fault."""
    behind = offset
    while not any(view[behind : behind + tar.BLOCK]):
        behind += tar.BLOCK
    message = (
        f"there is data after the end marker at byte {offset}: from byte {behind} on. Readers stop "
        "at the marker, so write the shard again."
    )
    return behind, TarDamage("E103", offset, message, holds_file=False)


def _next_header(view: memoryview, offset: int, end: int) -> int:
    """Start of the next block that looks like a header, damaged or not; `end` without one."""
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
        holds_file=error.code != "E104",
    )


def _file_header(view: memoryview, offset: int) -> int:
    """Where the header of the file itself lies: behind its PAX block, where that can be read."""
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
    """Read the name out of a header that cannot be trusted: a hint for people, never a key."""
    name = bytes(view[offset : offset + NAME_BYTES]).split(b"\0")[0].decode("ascii", "replace")
    return f" The file there calls itself {name!r}."


def _is_pax(view: memoryview, offset: int) -> bool:
    """Whether a damaged header is that of a PAX block: by its type or by its name."""
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
        f"{member.name!r} says {member.size} bytes from {member.data_offset}, but the tar has "
        f"{len(view)}. Copy the shard again.",
        key=member.key,
        starts_sample=member.file == "json",
    )


# Members to samples.


def _gather(things: Iterable[tar.Member | TarDamage]) -> Iterator[FoundSample]:
    """Group members by key; give each fault to the sample whose file it hides."""
    sample: FoundSample | None = None
    behind_end = False
    for thing in things:
        if isinstance(thing, TarDamage) and not thing.holds_file:
            behind_end = behind_end or thing.code == "E103"
            continue
        if sample is None or not _belongs(thing, sample):
            if sample is not None:
                yield sample
            sample = _begin_sample(thing, behind_end=behind_end)
        _add(sample, thing)
    if sample is not None:
        yield sample


def _begin_sample(thing: tar.Member | TarDamage, *, behind_end: bool) -> FoundSample:
    offset = thing.offset if isinstance(thing, TarDamage) else thing.header_offset
    sample = FoundSample(offset)
    if behind_end:
        sample.problems.append(SampleProblem("E103", "it lies behind the tar's end marker."))
    return sample


def _belongs(thing: tar.Member | TarDamage, sample: FoundSample) -> bool:
    """Whether a member, or what a fault hides, is part of the sample that is being gathered."""
    if isinstance(thing, TarDamage):
        return not thing.starts_sample
    if not sample.members:
        # Its json's header is unreadable: what follows without a json of its own is its media.
        return sample.awaits_json or thing.file != "json"
    return thing.key == sample.key


def _add(sample: FoundSample, thing: tar.Member | TarDamage) -> None:
    if isinstance(thing, TarDamage):
        sample.problems.append(SampleProblem(thing.code, thing.message))
        sample.awaits_json = thing.covers_next and thing.starts_sample
        sample.key = sample.key or thing.key
        return
    if not sample.members:
        sample.key = thing.key
    sample.members.append(thing)


def _join_pieces(samples: list[FoundSample]) -> list[FoundSample]:
    """Put the pieces of a sample that lie apart together (E107)."""
    whole: list[FoundSample] = []
    by_key: dict[str | None, FoundSample] = {}
    for sample in samples:
        first = by_key.get(sample.key)
        if first is not None and sample.is_loose_piece:
            first.problems.append(SampleProblem("E107", "its members are not side by side."))
            first.members += sample.members
            continue
        whole.append(sample)
        if sample.members:
            by_key.setdefault(sample.key, sample)
    return whole


def _check_names(samples: Iterable[FoundSample]) -> None:
    """Note E105, E106 and E108."""
    seen: set[str] = set()
    for sample in samples:
        for member in sample.members:
            sample.problems += _name_problems(member, seen)
        explained = any(p.code in ("E101", "E102", "E105") for p in sample.problems)
        if not sample.has_json and not explained:
            sample.problems.append(
                SampleProblem(
                    "E108", f"its first member is {sample.members[0].file!r}, not 'json'."
                )
            )


def _name_problems(member: tar.Member, seen: set[str]) -> Iterator[SampleProblem]:
    try:
        tar.check_name(member.key, member.file, shard="")
    except DataError as error:
        yield SampleProblem(error.code, error.message)
    folded = member.name.casefold()
    if folded in seen:
        yield SampleProblem("E106", f"{member.name!r} is there twice, upper case or lower.")
    seen.add(folded)
