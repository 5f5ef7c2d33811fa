# SPDX-License-Identifier: Apache-2.0
"""owl3-sample/1: what a sample on disk may say, and the code of each rule it can break.

A sample stores nothing that belongs to a model: no placeholder, no grid, no token ids. Text is kept
character for character; media are referenced by index from where they stand in the text.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from owl.errors import DataError

SCHEMA = "owl3-sample/1"

CONTROL_LITERALS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
"""Control tokens of Qwen2."""
MARKUP_LITERALS = (
    "<|image|>",
    "<|video|>",
    "<|start_cut|>",
    "<|end_cut|>",
    "<|start_video_frame|>",
    "<|end_video_frame|>",
)
"""What the templates write. To the tokenizer it is plain text, so a copy in user text would pass
for the real thing."""
LEFTOVER_LITERALS = ("<image>",)
"""Placeholder of other formats (LLaVA) that a converter forgot to replace."""
FORBIDDEN_LITERALS = CONTROL_LITERALS + MARKUP_LITERALS + LEFTOVER_LITERALS

MAX_WEIGHT = 1e6
CUT_MODES = ("auto", "on", "off")

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SampleProblem:
    """One rule that a sample breaks."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Field:
    """A key of a json object: its type, and whether it must be there."""

    kind: type | tuple[type, ...]
    required: bool = False


NUMBER = (int, float)

DOCUMENT_FIELDS = {
    "schema": Field(str, required=True),
    "id": Field(str, required=True),
    "kind": Field(str, required=True),
    "media": Field(list),
    "turns": Field(list, required=True),
    "meta": Field(dict),
}
MEDIA_COMMON = {
    "type": Field(str, required=True),
    "w": Field(int),
    "h": Field(int),
    "uri": Field(str),
    "alt": Field(str),
    "unused": Field(bool),
}
MEDIA_FIELDS = {
    "image": MEDIA_COMMON | {"file": Field(str, required=True), "cut": Field(str)},
    "frames": MEDIA_COMMON
    | {
        "files": Field(list, required=True),
        "t": Field(list),
        "duration": Field(NUMBER),
        "of": Field(str),
    },
    "video": MEDIA_COMMON | {"file": Field(str, required=True), "sample": Field(dict)},
}
TURN_FIELDS = {
    "role": Field(str, required=True),
    "content": Field(list, required=True),
    "loss": Field(bool),
    "weight": Field(NUMBER),
}
TEXT_FIELDS = {
    "text": Field(str, required=True),
    "loss": Field(bool),
    "weight": Field(NUMBER),
}
MEDIA_PART_FIELDS = {"media": Field(int, required=True), "frames": Field(list)}


def parse_document(data: bytes) -> dict[str, Any]:
    """Read a sample's json. Raises DataError E201."""
    try:
        document = json.loads(data.decode("utf-8"))
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are both ValueErrors
        raise DataError("E201", f"the json cannot be read: {error}.") from error
    if not isinstance(document, dict):
        raise DataError("E201", f"the json is a {type(document).__name__}, not an object.")
    return document


def check_document(document: Json, files: Collection[str], *, shard: str, key: str) -> None:
    """Raise DataError for the first rule that the document breaks.

    Args:
        document: the parsed json.
        files: media files stored with it, named without the key.
        shard: for the message.
        key: for the message.
    """
    for problem in document_problems(document, files):
        raise DataError(problem.code, problem.message, shard=shard, key=key)


def document_problems(document: Json, files: Collection[str]) -> Iterator[SampleProblem]:
    """Yield every rule that the document breaks; later rules rely on the earlier ones.

    The shape is settled before the meaning: a document whose fields have the wrong type is not
    looked into any further.
    """
    if document.get("schema") != SCHEMA:
        yield SampleProblem(
            "E202", f"schema={document.get('schema')!r}, but this version reads {SCHEMA!r}."
        )
        return
    shape = list(_shape_problems(document))
    yield from shape
    if shape:
        return
    yield from _media_problems(document, files)
    yield from _turn_problems(document)


def media_use(document: Json) -> Iterator[tuple[int, Json]]:
    """Yield (media index, content part) for each place where the text shows media, in order."""
    for turn in document["turns"]:
        for part in turn["content"]:
            if "media" in part:
                yield part["media"], part


def frame_range(part: Json, media: Json) -> range:
    """Frames of a clip that a content part shows: all, or its `frames: [a, b]`."""
    first, end = part.get("frames", (0, len(media["files"])))
    return range(first, end)


def media_files(media: Json) -> list[str]:
    """Files in which a media entry is stored."""
    return list(media["files"]) if media["type"] == "frames" else [media["file"]]


def default_loss(role: str) -> bool:
    """Whether a turn is learned when it does not say so: answers and documents are."""
    return role in ("assistant", "document")


def part_weight(turn: Json, part: Json) -> float:
    """Loss weight of a text part: what it says itself, else its turn, else the role's default."""
    learned = part.get("loss", turn.get("loss", default_loss(turn["role"])))
    return float(part.get("weight", turn.get("weight", 1.0))) if learned else 0.0


def turn_weight(turn: Json) -> float:
    """Loss weight of a turn's end markers."""
    return part_weight(turn, {})


# Shape: fields and types.


def _shape_problems(document: Json) -> Iterator[SampleProblem]:
    yield from _field_problems("the document", document, DOCUMENT_FIELDS)
    if document.get("kind") not in ("chat", "document"):
        yield SampleProblem("E203", f"kind={document.get('kind')!r}: use 'chat' or 'document'.")
    for index, media in enumerate(_list(document.get("media"))):
        yield from _media_shape(f"media[{index}]", media)
    for index, turn in enumerate(_list(document.get("turns"))):
        yield from _turn_shape(f"turns[{index}]", turn)


def _media_shape(name: str, media: object) -> Iterator[SampleProblem]:
    # str(): the type may be anything that json can hold, and a list is not hashable.
    fields = MEDIA_FIELDS.get(str(media.get("type"))) if isinstance(media, dict) else None
    if fields is None:
        yield SampleProblem("E203", f"{name} needs a type: one of {sorted(MEDIA_FIELDS)}.")
        return
    assert isinstance(media, dict)
    yield from _field_problems(name, media, fields)
    if media.get("cut", "auto") not in CUT_MODES:
        yield SampleProblem("E203", f"{name}.cut={media['cut']!r}: use one of {CUT_MODES}.")
    if any(not isinstance(file, str) for file in _list(media.get("files"))):
        yield SampleProblem("E203", f"{name}.files must be a list of file names.")
    if any(not _is_a(second, NUMBER) for second in _list(media.get("t"))):
        yield SampleProblem("E203", f"{name}.t must be a list of seconds.")


def _turn_shape(name: str, turn: object) -> Iterator[SampleProblem]:
    yield from _field_problems(name, turn, TURN_FIELDS)
    if not isinstance(turn, dict):
        return
    for index, part in enumerate(_list(turn.get("content"))):
        is_media = isinstance(part, dict) and "media" in part
        fields = MEDIA_PART_FIELDS if is_media else TEXT_FIELDS
        yield from _field_problems(f"{name}.content[{index}]", part, fields)
        if is_media and not _is_range(part.get("frames", [0, 1])):
            yield SampleProblem(
                "E203", f"{name}.content[{index}].frames={part['frames']!r}: write [first, end]."
            )


def _field_problems(
    name: str, value: object, fields: Mapping[str, Field]
) -> Iterator[SampleProblem]:
    if not isinstance(value, dict):
        yield SampleProblem("E203", f"{name} is {value!r:.80}, not an object.")
        return
    for extra in value.keys() - fields.keys():
        yield SampleProblem(
            "E203",
            f"{name} has a field {extra!r} that {SCHEMA} does not know. Move it into meta.raw.",
        )
    for key, field in fields.items():
        if key not in value:
            if field.required:
                yield SampleProblem("E203", f"{name} lacks the field {key!r}.")
        elif not _is_a(value[key], field.kind):
            yield SampleProblem("E203", f"{name}.{key}={value[key]!r:.80} has the wrong type.")


def _is_a(value: object, kind: type | tuple[type, ...]) -> bool:
    """Like isinstance, but a bool is not a number (json tells them apart, Python does not)."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, kind)


def _is_range(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_a(end, int) for end in value)


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


# Meaning: media.


def _media_problems(document: Json, files: Collection[str]) -> Iterator[SampleProblem]:
    entries = document.get("media", [])
    listed = [file for media in entries for file in media_files(media)]
    for file in sorted(set(listed) - set(files)):
        yield SampleProblem("E302", f"the file {file!r} is named by the json but not in the shard.")
    for file in sorted(set(files) - set(listed)):
        yield SampleProblem("E303", f"the file {file!r} is in the shard but not named by the json.")
    for index, media in enumerate(entries):
        yield from _clip_problems(index, media)
    yield from _reference_problems(document, entries)


def _clip_problems(index: int, media: Json) -> Iterator[SampleProblem]:
    if media["type"] == "video":
        yield SampleProblem(
            "E313",
            f"media[{index}] is a video file, which is not decoded at load time. Store its frames "
            "as pictures: a media entry of type 'frames'.",
        )
    if media["type"] != "frames":
        return
    if not media["files"]:
        yield SampleProblem("E312", f"media[{index}] is a clip without frames.")
    times = media.get("t")
    if times is None:
        return
    if len(times) != len(media["files"]):
        yield SampleProblem(
            "E312", f"media[{index}] has {len(media['files'])} frames but {len(times)} times."
        )
    if any(later <= earlier for earlier, later in pairwise(times)):
        yield SampleProblem("E312", f"media[{index}].t={times!r:.80} does not increase.")


def _reference_problems(document: Json, entries: Sequence[Json]) -> Iterator[SampleProblem]:
    used = set()
    for index, part in media_use(document):
        if not 0 <= index < len(entries):
            yield SampleProblem(
                "E301", f"the text shows media {index}, but there are {len(entries)} media."
            )
            continue
        used.add(index)
        yield from _range_problems(index, part, entries[index])
    for index, media in enumerate(entries):
        if index not in used and not media.get("unused", False):
            yield SampleProblem(
                "E304",
                f'media[{index}] is never shown. Place it in the text, or mark it "unused": true.',
            )


def _range_problems(index: int, part: Json, media: Json) -> Iterator[SampleProblem]:
    if "frames" not in part:
        return
    count = len(media["files"]) if media["type"] == "frames" else 0
    first, end = part["frames"]
    if not 0 <= first < end <= count:
        yield SampleProblem(
            "E301", f"the text shows frames [{first}, {end}) of media {index}, which has {count}."
        )


# Meaning: turns.


def _turn_problems(document: Json) -> Iterator[SampleProblem]:
    turns = document["turns"]
    yield from _role_problems(document["kind"], [turn["role"] for turn in turns])
    for index, turn in enumerate(turns):
        if not turn["content"] and turn["role"] != "system":
            yield SampleProblem("E204", f"turns[{index}] has no content.")
        yield from _text_problems(index, turn)
    weights = [
        problem
        for index, turn in enumerate(turns)
        for thing in (turn, *turn["content"])
        for problem in _weight_problems(index, thing)
    ]
    yield from weights
    if not weights and not any(_teaches(turn) for turn in turns):
        yield SampleProblem("E204", "no token of this sample is learned, so it teaches nothing.")


def _teaches(turn: Json) -> bool:
    return any(part_weight(turn, part) > 0 and part["text"] for part in _text_parts(turn))


def _role_problems(kind: str, roles: Sequence[str]) -> Iterator[SampleProblem]:
    if not roles:
        yield SampleProblem("E204", "turns is empty.")
        return
    if kind == "document":
        if list(roles) != ["document"]:
            yield SampleProblem("E205", f"roles {list(roles)}: a document has one document turn.")
        return
    spoken = list(roles[1:] if roles[0] == "system" else roles)
    expected = ["user", "assistant"] * (len(spoken) // 2)
    if not spoken or spoken != expected:
        yield SampleProblem(
            "E205",
            f"roles {list(roles)}: a chat has an optional system turn, then user and assistant "
            "by turns, and ends with assistant.",
        )


def _weight_problems(index: int, thing: Json) -> Iterator[SampleProblem]:
    weight = thing.get("weight", 1.0)
    if not 0 <= weight <= MAX_WEIGHT:  # false for NaN too
        yield SampleProblem(
            "E207", f"turns[{index}]: weight={weight!r:.40} must be 0..{MAX_WEIGHT:g}."
        )


def _text_parts(turn: Json) -> list[Json]:
    return [part for part in turn["content"] if "text" in part]


def _text_problems(index: int, turn: Json) -> Iterator[SampleProblem]:
    # Adjacent parts are read as one text, so a literal may not hide across their border.
    joined = "".join(part.get("text", "\n") for part in turn["content"])
    for literal in FORBIDDEN_LITERALS:
        if literal in joined:
            yield SampleProblem(
                "E206",
                f"turns[{index}] contains {literal!r}, which the template writes itself. Replace "
                "it by a media part, or keep it as plain text with data.special_literals=escape.",
            )
    if "\x00" in joined or any("\ud800" <= character <= "\udfff" for character in joined):
        yield SampleProblem("E208", f"turns[{index}] contains NUL or an unpaired surrogate.")
