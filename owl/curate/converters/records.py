# SPDX-License-Identifier: Apache-2.0
"""What every converter has in common: a source record in, a sample or a reject out.

A source format turns a record into a Draft, from which an owl3-sample/1 is written here. Fields
that the sample format does not have are kept in `meta.raw`.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from owl.curate.converters.prompt_endings import PromptEnding, add_ending
from owl.data.shards.schema import FORBIDDEN_LITERALS, SCHEMA, Json
from owl.errors import DataError, OwlError

MAX_NESTING = 64
"""Python's json parser fails near 1000, depending on its caller. A document must be far below that,
so that it cannot end a training run."""


SourceStats = dict[str, tuple[int, int]]
"""Path of a file that was read for a sample -> its size, and its time in nanoseconds."""


class ConvertError(OwlError):
    """The conversion cannot start or continue, for a reason other than a record."""


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """One record of the source, unchanged."""

    file: str  # relative to the input folder
    line: int  # from 1: line of a json-lines file, element of an array, row of a table, tar sample
    value: Any
    key: str = ""
    """Last part of the sample's key, where the line is not."""


@dataclass(frozen=True, slots=True)
class Reject:
    """A source record that a converter refuses, and why."""

    file: str
    line: int
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.code}: {self.message}"


class LeftOut(NamedTuple):
    """A picture that a document is written without."""

    name: str
    code: str


class MissingPictures(StrEnum):
    """What to do with a web document that has a missing or damaged picture."""

    reject = "reject"  # the entire document
    leave_out = "leave_out"  # only the picture, which is named in meta.left_out


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """Options that change the samples."""

    prompt_ending: PromptEnding | None = None
    escape: bool = False
    """Keep text that looks like markup as plain text, instead of rejecting it (E206)."""
    missing_pictures: MissingPictures = MissingPictures.reject
    cut: str | None = None
    """Value of `cut` for each picture: on, off or auto; None writes none."""
    turns_of: str | None = None
    """Consecutive jsonl records with the same value in this field are turns of one conversation."""
    url_map: Path | None = None
    """A jsonl of {"url": ..., "file": ...}: the file under --images of each url."""
    field_map: Mapping[str, str] = field(default_factory=dict)
    """Name that the layouts read -> field of the record that is to be read under it."""
    ignore_fields: tuple[str, ...] = ()
    """Fields that are kept in meta.raw only, although they look like media or fit a layout."""
    media_first: bool = False
    """Show the media of a record without any mark before its text, instead of rejecting it."""
    follow_links: bool = False
    """Trust links that lead out of the folders of input, pictures and videos."""
    decode: bool = True
    """Decode every picture completely; otherwise only its header is read."""


@dataclass(slots=True)
class MediaList:
    """Collects the media of one sample."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    sources: SourceStats = field(default_factory=dict)

    def add_picture(self, data: bytes, suffix: str, **fields: Any) -> int:
        """Append a picture; return its index. Fields that are None are omitted."""
        file = f"m{len(self.entries):04}.{suffix}"
        self.files[file] = data
        return self._add({"type": "image", "file": file}, fields)

    def add_clip(self, frames: list[tuple[bytes, str]], **fields: Any) -> int:
        """Append a video stored as pictures, each given as (bytes, suffix); return its index."""
        names = []
        for number, (data, suffix) in enumerate(frames):
            names.append(f"m{len(self.entries):04}.f{number:04}.{suffix}")
            self.files[names[-1]] = data
        return self._add({"type": "frames", "files": names}, fields)

    def _add(self, entry: dict[str, Any], fields: Mapping[str, Any]) -> int:
        known = {name: value for name, value in fields.items() if value is not None}
        self.entries.append(entry | known)
        return len(self.entries) - 1


@dataclass(slots=True, kw_only=True)
class Draft:
    """A record in the terms of a sample, before the options that all formats share are applied."""

    kind: str  # "chat" or "document"
    turns: list[dict[str, Any]]
    media: MediaList
    raw: dict[str, Any] = field(default_factory=dict)
    """Fields of the source that the sample format does not have, unchanged."""
    left_out: list[LeftOut] = field(default_factory=list)
    """Missing or damaged pictures that the document is written without."""
    prompt_ending: PromptEnding | None = None
    id: str | None = None
    layout: str = ""
    """The layout that the record was read as, where a format has several."""


@dataclass(frozen=True, slots=True)
class ConvertedSample:
    """One sample, ready to be written into a shard."""

    key: str
    document: Json
    files: Mapping[str, bytes]
    sources: SourceStats
    """Files that were read for it; a change in one of them makes the sample another."""
    left_out: Mapping[str, int]
    """Code -> pictures that it is written without."""
    layout: str


def finish_draft(
    draft: Draft, record: SourceRecord, key: str, *, source: str, escape: bool
) -> ConvertedSample:
    """Apply the shared options and write the document.

    Args:
        draft: of the record; its turns are changed in place.
        record: named in `meta.from`.
        key: of the sample.
        source: name of the source format, for `meta.source`.
        escape: keep text that looks like markup as plain text.

    Raises:
        DataError: E203 the remaining fields cannot be written as json.
    """
    for turn in draft.turns:
        if draft.prompt_ending and turn["role"] == "user":
            add_ending(turn["content"], draft.prompt_ending)
        for part in turn["content"] if escape else ():
            if "text" in part:
                part["text"] = escape_text(part["text"])
    meta = {
        "source": source,
        "from": f"{record.file}:{record.line}",
        "raw": draft.raw,
        "left_out": [each.name for each in draft.left_out],
    }
    check_json(meta)
    document = {
        "schema": SCHEMA,
        "id": draft.id or key,
        "kind": draft.kind,
        "media": draft.media.entries,
        "turns": draft.turns,
        "meta": {name: value for name, value in meta.items() if value},
    }
    return ConvertedSample(
        key,
        document,
        draft.media.files,
        sources=draft.media.sources,
        left_out=Counter(each.code for each in draft.left_out),
        layout=draft.layout,
    )


def check_json(value: dict[str, Any]) -> None:
    """Raise E203 for values that json cannot represent: bytes, dates, NaN, deep nesting."""
    if (depth := _nesting(value)) > MAX_NESTING:
        raise DataError(
            "E203", f"a leftover field is nested {depth} deep, over {MAX_NESTING}. Drop it."
        )
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(
            "E203",
            f"a leftover field cannot be kept as json: {error}. Drop the field from the source.",
        ) from error


def _nesting(value: object) -> int:
    """Depth of nested lists and objects, without recursion, whose limit it protects."""
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [child for item in level for child in _children(item)]
    return depth


def _children(item: object) -> list[object]:
    inner = item.values() if isinstance(item, dict) else item
    assert isinstance(inner, Iterable)
    return [child for child in inner if isinstance(child, dict | list)]


def escape_text(text: str) -> str:
    """Break markup in a text by a zero-width space behind its `<`, which keeps its look.

    Neither the tokenizer nor a template takes `<\\u200b|image|>` for a placeholder.
    """
    for literal in FORBIDDEN_LITERALS:
        text = text.replace(literal, f"{literal[0]}\u200b{literal[1:]}")
    return text
