# SPDX-License-Identifier: Apache-2.0
"""A sample's document as values with types: its media, and turns of text that show them.

What a model does not read (ids, addresses, meta) stays in the json. The small parts are named
tuples: a sample has many, and frozen dataclasses take three times as long to make.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

from owl.data.shards.schema import Json, shape_problems
from owl.errors import DataError


class ImageMedia(NamedTuple):
    """One picture."""

    file: str
    cut: str = "auto"  # or on, off
    width: int | None = None  # declared, in pixels, upright
    height: int | None = None
    unused: bool = False

    @property
    def files(self) -> Sequence[str]:
        """The picture's file."""
        return (self.file,)


class FramesMedia(NamedTuple):
    """A clip, stored as pictures."""

    files: Sequence[str]
    times: Sequence[float] | None = None  # of the frames, in seconds
    width: int | None = None
    height: int | None = None
    unused: bool = False


class VideoMedia(NamedTuple):
    """A video file: it has the right shape, but is refused by another rule (E313)."""

    file: str
    unused: bool = False

    @property
    def files(self) -> Sequence[str]:
        """The video's file."""
        return (self.file,)


Media = ImageMedia | FramesMedia | VideoMedia


class TextPart(NamedTuple):
    """Text, character for character. `loss` and `weight` override the turn's."""

    text: str
    loss: bool | None = None
    weight: float | None = None


class MediaPart(NamedTuple):
    """A place in the text that shows media."""

    media: int  # index of the entry
    frames: tuple[int, int] | None = None  # first and end; None for all

    def frame_range(self, clip: FramesMedia) -> range:
        """Frames of a clip that are shown."""
        return range(*(self.frames or (0, len(clip.files))))


Part = TextPart | MediaPart


class Turn(NamedTuple):
    """One turn of a conversation, or all of a document."""

    role: str  # system, user, assistant or document
    content: Sequence[Part]
    loss: bool | None = None
    weight: float | None = None

    def weight_of(self, part: TextPart) -> float:
        """Loss weight of a text part: its own, else the turn's, else the role's default."""
        loss = self.loss if part.loss is None else part.loss
        return self._weight(loss, self.weight if part.weight is None else part.weight)

    @property
    def end_weight(self) -> float:
        """Loss weight of what ends the turn."""
        return self._weight(self.loss, self.weight)

    def _weight(self, loss: bool | None, weight: float | None) -> float:
        """Answers and documents are learned by default, with weight 1."""
        learned = self.role in ("assistant", "document") if loss is None else loss
        return float(1.0 if weight is None else weight) if learned else 0.0

    @property
    def texts(self) -> list[str]:
        """The text of each part, a newline for media. Neighbouring parts are read as one text."""
        return [part.text if isinstance(part, TextPart) else "\n" for part in self.content]

    @property
    def is_learned(self) -> bool:
        """Whether any text of it is a target."""
        texts = (part for part in self.content if isinstance(part, TextPart))
        return any(part.text and self.weight_of(part) > 0 for part in texts)


@dataclass(frozen=True, slots=True)
class Document:
    """One sample."""

    kind: str  # chat or document
    media: Sequence[Media]
    turns: Sequence[Turn]

    @classmethod
    def from_json(cls, document: Json) -> Self:
        """Convert a document that has the shape that the schema asks for."""
        return cls(
            document["kind"],
            list(map(_media, document.get("media", ()))),
            list(map(_turn, document["turns"])),
        )

    @property
    def files(self) -> list[str]:
        """Media files that it names, each once, in order."""
        return list(dict.fromkeys(file for media in self.media for file in media.files))

    @property
    def places(self) -> list[MediaPart]:
        """Each place where the text shows media, in order."""
        return [part for turn in self.turns for part in turn.content if isinstance(part, MediaPart)]

    def prompt(self) -> Self:
        """The document without its final answer, if it ends with one."""
        is_answered = self.turns[-1].role == "assistant"
        return replace(self, turns=self.turns[:-1]) if is_answered else self


def parse_json(data: bytes) -> dict[str, Any]:
    """Read a sample's json. Raises DataError E201."""
    try:
        document = json.loads(data.decode("utf-8"))
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are both ValueErrors
        raise DataError("E201", f"the json cannot be read: {error}.") from error
    if not isinstance(document, dict):
        raise DataError("E201", f"the json is a {type(document).__name__}, not an object.")
    return document


def parse_document(data: bytes) -> Document:
    """Read the document of a sample that was checked when its shard was indexed.

    Raises:
        DataError: E201 no json, E202 or E203 the wrong shape.
    """
    document = parse_json(data)
    try:
        return Document.from_json(document)
    except (AttributeError, KeyError, TypeError, ValueError):
        for problem in shape_problems(document):
            raise DataError(problem.code, problem.message) from None
        raise


def _media(entry: Json) -> Media:
    unused = entry.get("unused", False)
    if entry["type"] == "video":
        return VideoMedia(entry["file"], unused)
    size = (entry.get("w"), entry.get("h"))
    if entry["type"] == "frames":
        return FramesMedia(tuple(entry["files"]), entry.get("t"), *size, unused)
    return ImageMedia(entry["file"], entry.get("cut", "auto"), *size, unused)


def _turn(turn: Json) -> Turn:
    content = [_place(part) if "media" in part else TextPart(**part) for part in turn["content"]]
    return Turn(turn["role"], content, turn.get("loss"), turn.get("weight"))


def _place(part: Json) -> MediaPart:
    first, end = part.get("frames", (None, None))
    return MediaPart(part["media"], None if first is None else (first, end))
