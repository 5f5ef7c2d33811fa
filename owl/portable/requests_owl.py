# SPDX-License-Identifier: Apache-2.0
"""Reads a user's input, in any of its forms, into requests.

In the form of the model cards, messages hold `<|image|>` and `<|video|>`, and the media are lists
of their own. In the form of current transformers, content is a list of text, image and video
entries. Text never becomes a control token, unless it is one string that is already rendered.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from owl.portable.marks_owl import ChatFormat, Mark, Turn, split_marks
from owl.portable.pictures_owl import Clip, shorten
from owl.portable.pieces_owl import Control, Piece

SOURCE_KEYS = {
    "image": ("image", "path", "url", "base64", "image_url"),
    "video": ("video", "path", "url", "base64", "video_url"),
}
"""Keys under which an entry of a content list may hold its media."""
KINDS = {
    **{"image": "image", "image_url": "image", "input_image": "image"},
    **{"video": "video", "video_url": "video"},
}
"""Types of entries with media (transformers, Qwen, OpenAI), and their kinds."""
CLIP_KEYS = {
    "video_start": "start",
    "video_end": "end",
    "fps": "fps",
    "max_frames": "max_frames",
}
"""Keys of a video's entry that choose its frames (Qwen), and the fields of a Clip."""


class RequestError(ValueError):
    """A request contradicts itself, such as more pictures than marks for them."""


class Ending(StrEnum):
    """How a rendered conversation ends."""

    closed = "closed"
    prompt = "prompt"  # with the header of the assistant's answer
    open = "open"  # in the middle of the last message

    @classmethod
    def of(cls, add_generation_prompt: bool, continue_final_message: bool) -> "Ending":
        """Read transformers' two options."""
        if add_generation_prompt and continue_final_message:
            raise RequestError(
                "add_generation_prompt and continue_final_message contradict each other: a new "
                "answer begins, or the last message continues. Use one of them."
            )
        if not isinstance(continue_final_message, bool | None):
            raise RequestError(
                f"continue_final_message={continue_final_message!r} must be True or False: a "
                "message has only one text to continue."
            )
        return (
            cls.open
            if continue_final_message
            else cls.prompt
            if add_generation_prompt
            else cls.closed
        )


@dataclass
class Request:
    """One row of a batch: pieces with marks, and the media for the marks, in order."""

    pieces: list[Piece | Mark]
    images: list[Any] = field(default_factory=list)
    videos: list[Any] = field(default_factory=list)


def check_counts(request: Request) -> None:
    """Raise RequestError if the numbers of marks and media differ."""
    for mark, media in ((Mark.image, request.images), (Mark.video, request.videos)):
        places = sum(piece is mark for piece in request.pieces)
        if places != len(media):
            raise RequestError(
                f"the text has {places} {mark} but {len(media)} {mark.name}s were passed. Write "
                f"one {mark} for each, in their order."
            )


def read_requests(
    text: Any, images: Any, videos: Any, chat: ChatFormat, *, answered: bool
) -> list[Request]:
    """Read the arguments of a processor's __call__; see OwlProcessor.

    Unless `answered`, a last answer is left out, as published.
    """
    if not text:
        raise RequestError(
            "there is no text: pass messages, a rendered string, or a list of either."
        )
    is_batch = not isinstance(text, str) and not isinstance(text[0], dict)
    texts = list(text) if is_batch else [text]
    if answered and any(isinstance(one, str) for one in texts):
        raise RequestError(
            "labels need messages, which have roles: inference_mode=False cannot read strings."
        )
    requests = [Request(list(_pieces(one, chat, answered=answered))) for one in texts]
    _distribute(requests, images, Mark.image)
    _distribute(requests, videos, Mark.video)
    return requests


def _pieces(
    text: str | Sequence[dict[str, Any]], chat: ChatFormat, *, answered: bool
) -> Iterator[Piece | Mark]:
    if isinstance(text, str):
        return chat.parse(text)
    turns = [Turn(_role(message), _content(message)) for message in text]
    if not answered and turns[-1].role == "assistant":
        turns = [*turns[:-1], Turn("assistant", ())]
    return chat.render(turns, False)


def _role(message: Any) -> str:
    if not isinstance(message, Mapping):
        raise RequestError(
            f"a message is a {type(message).__name__}: it must be a dict with role and content."
        )
    if not {"role", "content"} <= set(message):
        raise RequestError(f"a message has the keys {sorted(message)}: it needs role and content.")
    return str(message["role"])


def _content(message: dict[str, Any]) -> tuple[str | Mark, ...]:
    content = message["content"]
    if not isinstance(content, str):
        raise RequestError(
            f"the content of a {message['role']} message is a {type(content).__name__}. Content "
            "lists go through apply_chat_template(..., tokenize=True, return_dict=True)."
        )
    return split_marks(content)


def _distribute(requests: Sequence[Request], media: Any, mark: Mark) -> None:
    """Assign media to requests: a list for each row, or one list for all rows, in order."""
    media = _as_list(media, mark)
    if _is_by_row(media, len(requests), mark):
        shares = [list(share or []) for share in media]
    else:
        counts = [sum(piece is mark for piece in request.pieces) for request in requests]
        stops = [sum(counts[: index + 1]) for index in range(len(counts))]
        shares = [media[stop - count : stop] for count, stop in zip(counts, stops, strict=True)]
        shares[-1] += media[stops[-1] :]  # too many: check_counts reports it
    for request, share in zip(requests, shares, strict=True):
        if mark is Mark.image:
            request.images = share
        else:
            request.videos = share


def _as_list(media: Any, mark: Mark) -> list[Any]:
    if media is None:
        return []
    if isinstance(media, list | tuple):
        # One video may be the plain list of its frames.
        is_one_clip = mark is Mark.video and media and not _is_clip(media[0])
        return [list(media)] if is_one_clip else list(media)
    return [media]


def _is_by_row(media: list[Any], rows: int, mark: Mark) -> bool:
    """Whether media hold a list for each row; note that a video may itself be a list of frames."""
    if len(media) != rows or not all(one is None or isinstance(one, list | tuple) for one in media):
        return False
    return mark is Mark.image or all(_is_clip(clip) for one in media for clip in one or ())


def _is_clip(media: Any) -> bool:
    """Whether this is one video (a list, a stack of frames, a file), not a frame of one."""
    if isinstance(media, list | tuple):
        return True
    if isinstance(media, str | Path):
        return Path(str(media)).suffix.lower() not in _PICTURE_FILES
    return getattr(media, "ndim", 0) == 4


_PICTURE_FILES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".avif"}


def is_message(value: Any) -> bool:
    """Whether this is one message, as a dict or an object, rather than a conversation."""
    return isinstance(value, Mapping) or hasattr(value, "role")


def plain_messages(messages: Sequence[Any]) -> list[Any]:
    """Convert messages and content entries that are objects to dicts.

    Entries of the OpenAI form, {"type": "image_url", "image_url": {"url": ...}}, become image
    entries.
    """
    plain = [_as_dict(message) for message in messages]
    for message in plain:
        if isinstance(message, dict) and isinstance(message.get("content"), list | tuple):
            message["content"] = [_plain_entry(_as_dict(entry)) for entry in message["content"]]
    return plain


def _as_dict(value: Any) -> Any:
    """Convert a dict, dataclass or pydantic model to a dict without fields that are None."""
    if isinstance(value, Mapping):
        return dict(value)
    fields = vars(value) if hasattr(value, "__dict__") else None
    return value if fields is None else {n: v for n, v in fields.items() if v is not None}


def _plain_entry(entry: Any) -> Any:
    kind = entry.get("type") if isinstance(entry, dict) else None
    if kind not in ("image_url", "video_url"):
        return entry
    source = entry.get(kind)
    source = source.get("url") if isinstance(source, Mapping) else source
    return {"type": kind.removesuffix("_url"), "url": source}


def read_conversation(
    messages: Sequence[dict[str, Any]], ending: Ending, chat: ChatFormat, *, need_media: bool
) -> Request:
    """Read messages whose content may be a list of entries that hold their media.

    With `need_media`, an entry without its media is an error.
    """
    if not messages:
        raise RequestError("a conversation is empty: give at least one message.")
    request, turns = Request([]), []
    for message in messages:
        role, content = _role(message), message["content"]
        entries = [{"type": "text", "text": content}] if isinstance(content, str) else content
        parts = tuple(_entry(entry, request, need_media) for entry in entries or ())
        turns.append(Turn(role, parts))
    request.pieces = list(chat.render(turns, ending is Ending.prompt))
    if ending is Ending.open:
        if turns[-1].is_empty:
            raise RequestError(
                "continue_final_message=True, but the last message is empty. Give it the text that "
                "the model continues, or use add_generation_prompt=True."
            )
        while isinstance(request.pieces[-1], Control):
            del request.pieces[-1]
    return request


def _entry(entry: Any, request: Request, need_media: bool) -> str | Mark:
    """Read one entry of a content list, and append its media to `request`."""
    if not isinstance(entry, Mapping):
        raise RequestError(
            f"a content entry is a {type(entry).__name__}, {shorten(entry)!r}: it must be a dict "
            "such as {'type': 'text', 'text': ...}. Plain text may be the content itself."
        )
    kind = entry.get("type")
    if kind == "text":
        if not isinstance(entry.get("text"), str):
            raise RequestError(
                f"a content entry of type text has text={entry.get('text')!r}: it must be a string."
            )
        return str(entry["text"])
    if kind not in KINDS:
        raise RequestError(f"a content entry of type {kind!r}: it must be text, image or video.")
    mark = Mark[KINDS[kind]]
    keys = SOURCE_KEYS[mark.name]
    found = [(key, entry[key]) for key in keys if entry.get(key) is not None]
    if len(found) != 1 and need_media:
        raise RequestError(
            f"a content entry {sorted(entry)} of type {kind} holds {len(found)} sources: give one "
            f"of {', '.join(keys)}."
        )
    if found:
        source = _source(*found[0])
        (request.images if mark is Mark.image else request.videos).append(
            _clip(source, entry) if mark is Mark.video else source
        )
    return mark


def _source(key: str, value: Any) -> Any:
    if key == "base64":
        return f"data:;base64,{value}"
    if key.endswith("_url") and isinstance(value, Mapping):  # OpenAI's {"url": ..., "detail": ...}
        return value.get("url")
    return value


def _clip(source: Any, entry: Mapping[str, Any]) -> Any:
    """Return a video with the choice of frames that its entry makes, if any."""
    chosen = {key: entry[key] for key in CLIP_KEYS if entry.get(key) is not None}
    for key, value in chosen.items():
        least = 0 if key.startswith("video_") else 1 if key == "max_frames" else 1e-6
        if isinstance(value, bool) or not isinstance(value, int | float) or value < least:
            raise RequestError(f"a content entry of type video has {key}={value!r}: use a number.")
    options: Any = {CLIP_KEYS[key]: value for key, value in chosen.items()}
    return Clip(source, **options) if options else source
