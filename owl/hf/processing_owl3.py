# SPDX-License-Identifier: Apache-2.0
"""Conversations and media to what the model reads, in both ways of asking.

The model cards' way: messages whose content holds `<|image|>` and `<|video|>`, the media beside
them. Today's way: content lists of text, image and video entries, through apply_chat_template.
Text never becomes a control token, unless it comes as one string that is already rendered.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.decoders import ByteLevel
from tokenizers.models import BPE
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BatchFeature,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

from .configuration_owl3 import Owl3Config
from .pictures_owl3 import (
    DEFAULT_MAX_FRAMES,
    choose_grid,
    load_frames,
    load_picture,
    make_tiles,
)
from .template_owl3 import (
    CHAT_TEMPLATE,
    CONTROL_LITERALS,
    TEMPLATES,
    Control,
    Mark,
    Piece,
    Text,
    Tile,
    Turn,
    join_text,
    number_media,
    parse_rendered,
    render,
    split_marks,
    to_string,
)

IGNORE_INDEX = -100
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 splits text before merging: published with its tokenizer."""

SETTINGS_FILE = "processor_config.json"
SOURCE_KEYS = {
    "image": ("image", "path", "url", "base64"),
    "video": ("video", "path", "url"),
}
"""Where an entry of a content list may hold its media."""


class RequestError(ValueError):
    """A request contradicts itself, such as more pictures than places for them."""


@dataclass(frozen=True)
class MediaOptions:
    """How pictures and videos are shown."""

    cut: bool = True
    max_tiles: int | None = None
    max_frames: int = DEFAULT_MAX_FRAMES
    number: bool = False

    def __post_init__(self) -> None:
        if self.max_tiles is not None and self.max_tiles < 1:
            raise RequestError(f"max_tiles={self.max_tiles} must be at least 1, or None.")
        if self.max_frames < 1:
            raise RequestError(f"max_frames={self.max_frames} must be at least 1.")


@dataclass
class Request:
    """One row of a batch: pieces with marks, and the media for the marks, in order."""

    pieces: list[Piece]
    images: list[Any] = field(default_factory=list)
    videos: list[Any] = field(default_factory=list)


@dataclass
class Row:
    """One row of a batch, encoded."""

    tokens: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    media_offset: list[int] = field(default_factory=list)
    tiles: list[Tensor] = field(default_factory=list)  # [m of a picture, 3, s, s] uint8 each

    def add(self, tokens: list[int], *, learned: bool) -> None:
        """Append tokens of which all or none are learned."""
        self.tokens += tokens
        self.labels += tokens if learned else [IGNORE_INDEX] * len(tokens)


class Owl3Processor(ProcessorMixin):
    """Encodes requests for one model.

    Args:
        tokenizer: Qwen2's, or any with its three control tokens.
        image_size: side of a tile in pixels, s.
        template: v2 (240728) or v3 (241014, 241101).
        chat_template: Jinja for apply_chat_template; the published format by default.
    """

    attributes = ["tokenizer"]  # noqa: RUF012 - transformers' own name
    tokenizer_class = "AutoTokenizer"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        image_size: int = 378,
        template: str = "v3",
        chat_template: str | None = None,
        **_: Any,
    ) -> None:
        if template not in TEMPLATES:
            raise ValueError(f"template={template!r} must be one of {', '.join(TEMPLATES)}.")
        super().__init__(tokenizer, chat_template=chat_template or CHAT_TEMPLATE)
        self.image_size, self.template = image_size, template
        self._plain = _without_controls(tokenizer)
        self._control_ids = _control_ids(tokenizer)
        self._placeholder = self._plain.encode(Mark.image.value, add_special_tokens=False).ids

    # Loading and saving.

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> "Owl3Processor":
        """Load the tokenizer of a folder; tile size and template come from its config.json.

        Args:
            pretrained_model_name_or_path: a published folder, or one of ours.
            **kwargs: image_size, template, chat_template; the rest goes to the tokenizer.
        """
        folder = pretrained_model_name_or_path
        settings: dict[str, Any] = {
            name: kwargs.pop(name)
            for name in ("image_size", "template", "chat_template")
            if name in kwargs
        }
        for name in ("_from_auto", "trust_remote_code"):
            kwargs.pop(name, None)
        settings = _saved_settings(Path(folder)) | settings
        if not {"image_size", "template"} <= set(settings):
            hub = {name: value for name, value in kwargs.items() if name in _HUB_OPTIONS}
            config = Owl3Config.from_pretrained(folder, **hub)
            settings.setdefault("image_size", config.vision_config.image_size)
            settings.setdefault("template", config.template)
        return cls(load_tokenizer(folder, **kwargs), **settings)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> list[str]:
        """Write the tokenizer, its chat template, and the processor's settings."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.chat_template = self.chat_template
        written = list(self.tokenizer.save_pretrained(folder))
        settings = folder / SETTINGS_FILE
        values = {
            "processor_class": type(self).__name__,
            "image_size": self.image_size,
            "template": self.template,
        }
        settings.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        return [*written, str(settings)]

    @property
    def model_input_names(self) -> list[str]:
        """What the model takes of what this gives."""
        return ["input_ids", "attention_mask", "pixel_values", "media_offset"]

    # The model cards' way.

    def __call__(
        self,
        text: Any = None,
        images: Any = None,
        videos: Any = None,
        *,
        cut_enable: bool = True,
        max_tiles: int | None = None,
        max_frames: int = DEFAULT_MAX_FRAMES,
        number_media: bool = False,
        inference_mode: bool = True,
        padding: bool = True,
        padding_side: str = "left",
        return_tensors: str | None = "pt",
        **_: Any,
    ) -> BatchFeature:
        """Encode one request, or a batch of them.

        Args:
            text: messages ({"role", "content"}), a rendered string, or a list of either. In
                messages `<|image|>` and `<|video|>` show media.
            images: pictures in the order of their marks; for a batch also a list for each row.
                What a picture may be: see pictures_owl3.load_picture.
            videos: likewise; a video is a list of frames, an array or a path.
            cut_enable: cut pictures into tiles; frames never are.
            max_tiles: most tiles of one picture, its global view included.
            max_frames: most frames of one video file.
            number_media: write `Picture 1: ` before the first picture, and so on.
            inference_mode: leave a last answer out, as published. False keeps it, closes the
                conversation and adds labels.
            padding: pad rows to the longest; without, a batch must be of equal lengths.
            padding_side: left or right; media_offset is the same either way.
            return_tensors: "pt", or None for lists of tokens.
            **_: options of transformers that mean nothing here.

        Returns:
            input_ids and attention_mask [b, t]; labels [b, t] with inference_mode=False; and where
            there are pictures pixel_values [m, 3, s, s] float32 of the whole batch, and
            media_offset, for each row the index of each tile's first placeholder, padding not
            counted.

        Raises:
            RequestError: marks and media do not fit.
            MediaError: a picture or video cannot be read.
        """
        requests = list(_requests(text, images, videos, answered=not inference_mode))
        options = MediaOptions(cut_enable, max_tiles, max_frames, number_media)
        return self._encode_batch(
            requests, options, labels=not inference_mode, padding=padding,
            padding_side=padding_side, return_tensors=return_tensors,
        )  # fmt: skip

    # Today's way.

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_labels: bool = False,
        cut_enable: bool = True,
        max_tiles: int | None = None,
        max_frames: int = DEFAULT_MAX_FRAMES,
        number_media: bool = False,
        padding: bool = True,
        padding_side: str = "left",
        return_tensors: str | None = "pt",
        **kwargs: Any,
    ) -> Any:
        """Render conversations, and with tokenize=True encode them with their media.

        Args:
            conversation: messages, or several lists of messages. Content is a string or a list of
                {"type": "text", "text": ...}, {"type": "image", "image" | "path" | "url": ...}
                and {"type": "video", "video" | "path" | "url": ...}.
            chat_template: Jinja in place of the published format; only with tokenize=False.
            add_generation_prompt: end with the header of the assistant's answer.
            tokenize: encode; otherwise return strings, in which `<|image|>` marks a picture.
            return_dict: everything the model takes; otherwise input_ids alone.
            return_labels: add labels, which learn what the assistant says.
            cut_enable: see __call__; so are the options that follow.
            max_tiles: see __call__.
            max_frames: see __call__.
            number_media: see __call__.
            padding: see __call__.
            padding_side: see __call__.
            return_tensors: see __call__.
            **kwargs: more options, for a chat_template given here.
        """
        if chat_template is not None and chat_template != self.chat_template:
            if tokenize:
                raise RequestError(
                    "chat_template with tokenize=True: render with tokenize=False, then pass the "
                    "string and its media to the processor."
                )
            return self.tokenizer.apply_chat_template(
                conversation, chat_template=chat_template, tokenize=False,
                add_generation_prompt=add_generation_prompt, number_media=number_media, **kwargs,
            )  # fmt: skip
        if not conversation:
            raise RequestError("the conversation is empty: give at least one message.")
        is_batch = not isinstance(conversation[0], dict)
        requests = [
            _read_conversation(messages, open_prompt=add_generation_prompt, need_media=tokenize)
            for messages in (conversation if is_batch else [conversation])
        ]
        options = MediaOptions(cut_enable, max_tiles, max_frames, number_media)
        if not tokenize:
            texts = [to_string(_numbered(request.pieces, options)) for request in requests]
            return texts if is_batch else texts[0]
        encoded = self._encode_batch(
            requests, options, labels=return_labels, padding=padding,
            padding_side=padding_side, return_tensors=return_tensors,
        )  # fmt: skip
        return encoded if return_dict else encoded["input_ids"]

    # Encoding.

    def _encode_batch(
        self,
        requests: Sequence[Request],
        options: MediaOptions,
        *,
        labels: bool,
        padding: bool,
        padding_side: str,
        return_tensors: str | None,
    ) -> BatchFeature:
        if padding_side not in ("left", "right"):
            raise RequestError(f"padding_side={padding_side!r} must be left or right.")
        if return_tensors not in ("pt", None):
            raise RequestError(f"return_tensors={return_tensors!r} must be 'pt' or None.")
        rows = [self.encode(request, options) for request in requests]
        lengths = {len(row.tokens) for row in rows}
        if return_tensors and not padding and len(lengths) > 1:
            raise RequestError(
                f"rows of {sorted(lengths)} tokens make no tensor: leave padding=True."
            )
        batch = _text_columns(rows, labels, self._pad_id(), padding_side if padding else None)
        if return_tensors:
            batch = {name: torch.tensor(column) for name, column in batch.items()}
        tiles = [part for row in rows for part in row.tiles]
        if tiles:
            pixels = torch.cat(tiles)
            batch["pixel_values"] = (pixels.float() / 255 - 0.5) / 0.5
            batch["media_offset"] = [torch.tensor(row.media_offset).long() for row in rows]
        return BatchFeature(batch)

    def encode(self, request: Request, options: MediaOptions) -> Row:
        """Encode one request: tokens, labels, tiles, and where each tile stands."""
        row = Row()
        pieces = self._with_media(request, options, row)
        for piece in join_text(pieces):
            if isinstance(piece, Text):
                tokens = self._plain.encode(piece.text, add_special_tokens=False).ids
                row.add(tokens, learned=piece.learned)
            elif isinstance(piece, Control):
                row.add([self._control_ids[piece.literal]], learned=piece.learned)
            else:
                row.media_offset.append(len(row.tokens))
                row.add(self._placeholder, learned=False)
        return row

    def _with_media(self, request: Request, options: MediaOptions, row: Row) -> Iterator[Piece]:
        """Write tiles for marks, and put their pixels into `row`."""
        _check_counts(request)
        images, videos = iter(request.images), iter(request.videos)
        for piece in _numbered(request.pieces, options):
            if piece is Mark.image:
                yield from self._picture(next(images), options, row)
            elif piece is Mark.video:
                yield from self._clip(next(videos), options, row)
            else:
                yield piece

    def _picture(self, source: Any, options: MediaOptions, row: Row) -> Iterator[Piece]:
        picture = load_picture(source)
        grid = None
        if options.cut:
            grid = choose_grid(*picture.size, self.image_size, options.max_tiles)
        row.tiles.append(make_tiles(picture, self.image_size, grid))
        yield from TEMPLATES[self.template].cut_picture(*grid) if grid else [Tile()]

    def _clip(self, source: Any, options: MediaOptions, row: Row) -> Iterator[Piece]:
        frames = load_frames(source, options.max_frames)
        row.tiles += [make_tiles(frame, self.image_size, None) for frame in frames]
        yield from TEMPLATES[self.template].clip(len(frames))

    def _pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return self._control_ids["<|endoftext|>"] if pad is None else int(pad)


_HUB_OPTIONS = ("cache_dir", "revision", "token", "local_files_only", "subfolder")


def _saved_settings(folder: Path) -> dict[str, Any]:
    """Read what save_pretrained wrote, if it did; published folders have no such file."""
    file = folder / SETTINGS_FILE
    values = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {name: values[name] for name in ("image_size", "template") if name in values}


def _numbered(pieces: Sequence[Piece], options: MediaOptions) -> Iterator[Piece]:
    return number_media(pieces) if options.number else iter(pieces)


def _text_columns(
    rows: Sequence[Row], labels: bool, pad_id: int, padding_side: str | None
) -> dict[str, Any]:
    """Lay rows one below the other, padded to the longest where a side is given."""
    longest = max(len(row.tokens) for row in rows)

    def pad(column: list[int], value: int) -> list[int]:
        missing = [value] * (longest - len(column) if padding_side else 0)
        return missing + column if padding_side == "left" else column + missing

    columns = {
        "input_ids": [pad(row.tokens, pad_id) for row in rows],
        "attention_mask": [pad([1] * len(row.tokens), 0) for row in rows],
    }
    if labels:
        columns["labels"] = [pad(row.labels, IGNORE_INDEX) for row in rows]
    return columns


def _check_counts(request: Request) -> None:
    """Raise RequestError where marks and media are not equally many."""
    for mark, media in ((Mark.image, request.images), (Mark.video, request.videos)):
        places = sum(piece is mark for piece in request.pieces)
        if places != len(media):
            raise RequestError(
                f"the text has {places} {mark} but {len(media)} {mark.name}s came with it. Write "
                f"one {mark} for each, in their order."
            )


# Reading requests.


def _requests(text: Any, images: Any, videos: Any, *, answered: bool) -> Iterator[Request]:
    """Read what __call__ was given, in any of its forms."""
    if not text:
        raise RequestError(
            "there is no text: pass messages, a rendered string, or a list of either."
        )
    is_batch = not isinstance(text, str) and not isinstance(text[0], dict)
    texts = list(text) if is_batch else [text]
    if answered and any(isinstance(one, str) for one in texts):
        raise RequestError(
            "labels need messages, which say who speaks: inference_mode=False cannot read strings."
        )
    requests = [Request(list(_pieces(one, answered=answered))) for one in texts]
    _hand_out(requests, images, Mark.image)
    _hand_out(requests, videos, Mark.video)
    yield from requests


def _pieces(text: str | Sequence[dict[str, Any]], *, answered: bool) -> Iterator[Piece]:
    if isinstance(text, str):
        yield from parse_rendered(text)
        return
    turns = [Turn(_role(message), _typed(message)) for message in text]
    if not answered and turns[-1].role == "assistant":
        turns = [*turns[:-1], Turn("assistant", ())]  # a last answer is left out, as published
    yield from render(turns, open_prompt=False)


def _role(message: dict[str, Any]) -> str:
    if not {"role", "content"} <= set(message):
        raise RequestError(f"a message has the keys {sorted(message)}: it needs role and content.")
    return str(message["role"])


def _typed(message: dict[str, Any]) -> tuple[str | Mark, ...]:
    content = message["content"]
    if not isinstance(content, str):
        raise RequestError(
            f"the content of a {message['role']} message is a {type(content).__name__}. Content "
            "lists go through apply_chat_template(..., tokenize=True, return_dict=True)."
        )
    return split_marks(content)


def _hand_out(requests: Sequence[Request], media: Any, mark: Mark) -> None:
    """Give each request its media: one list for each row, or one list for all, in order."""
    media = _as_list(media, mark)
    if _is_by_row(media, len(requests), mark):
        shares = [list(share or []) for share in media]
    else:
        counts = [sum(piece is mark for piece in request.pieces) for request in requests]
        stops = [sum(counts[: index + 1]) for index in range(len(counts))]
        shares = [media[stop - count : stop] for count, stop in zip(counts, stops, strict=True)]
        shares[-1] += media[stops[-1] :]  # too many: _check_counts says so
    for request, share in zip(requests, shares, strict=True):
        if mark is Mark.image:
            request.images = share
        else:
            request.videos = share


def _as_list(media: Any, mark: Mark) -> list[Any]:
    if media is None:
        return []
    if isinstance(media, list | tuple):
        # One video may come as the bare list of its frames.
        is_one_clip = mark is Mark.video and media and not _is_clip(media[0])
        return [list(media)] if is_one_clip else list(media)
    return [media]


def _is_by_row(media: list[Any], rows: int, mark: Mark) -> bool:
    """Whether media hold a list for each row; a video is itself a list, of frames."""
    if len(media) != rows or not all(one is None or isinstance(one, list | tuple) for one in media):
        return False
    return mark is Mark.image or all(_is_clip(clip) for one in media for clip in one or ())


def _is_clip(media: Any) -> bool:
    """Whether this is one video, not a frame of one: a list, a stack of frames, a file."""
    if isinstance(media, list | tuple):
        return True
    if isinstance(media, str | Path):
        return Path(str(media)).suffix.lower() not in _PICTURE_FILES
    return getattr(media, "ndim", 0) == 4


_PICTURE_FILES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"}


def _read_conversation(
    messages: Sequence[dict[str, Any]], *, open_prompt: bool, need_media: bool
) -> Request:
    """Read messages whose content may be a list of entries that carry their media."""
    if not messages:
        raise RequestError("a conversation is empty: give at least one message.")
    request, turns = Request([]), []
    for message in messages:
        role, content = _role(message), message["content"]
        entries = [{"type": "text", "text": content}] if isinstance(content, str) else content
        parts = tuple(_entry(entry, request, need_media) for entry in entries or ())
        turns.append(Turn(role, parts))
    request.pieces = list(render(turns, open_prompt=open_prompt))
    return request


def _entry(entry: dict[str, Any], request: Request, need_media: bool) -> str | Mark:
    """Read one entry of a content list; its media go into `request`."""
    kind = entry.get("type")
    if kind == "text":
        return str(entry["text"])
    if kind not in SOURCE_KEYS:
        raise RequestError(f"a content entry of type {kind!r}: it must be text, image or video.")
    found = [entry[key] for key in SOURCE_KEYS[kind] if entry.get(key) is not None]
    if len(found) != 1 and need_media:
        raise RequestError(
            f"a content entry {sorted(entry)} of type {kind} holds {len(found)} sources: give one "
            f"of {', '.join(SOURCE_KEYS[kind])}."
        )
    if found:
        source = f"data:,{found[0]}" if "base64" in entry else found[0]
        (request.images if kind == "image" else request.videos).append(source)
    return Mark[kind]


# Tokenizers.


def load_tokenizer(folder: str | Path, **kwargs: Any) -> PreTrainedTokenizerBase:
    """Load a folder's tokenizer, also where tokenizer_config.json is missing."""
    local = Path(folder)
    if local.is_dir() and not (local / "tokenizer_config.json").is_file():
        # AutoTokenizer would guess the class from model_type, which it does not know.
        return PreTrainedTokenizerFast(
            tokenizer_object=_bare_tokenizer(local),
            eos_token="<|im_end|>",
            pad_token="<|endoftext|>",
        )
    return AutoTokenizer.from_pretrained(folder, **kwargs)


def _bare_tokenizer(folder: Path) -> RustTokenizer:
    """Read tokenizer.json, or Qwen2's vocab.json and merges.txt."""
    if (folder / "tokenizer.json").is_file():
        return RustTokenizer.from_file(str(folder / "tokenizer.json"))
    files = [folder / "vocab.json", folder / "merges.txt"]
    if not all(file.is_file() for file in files):
        raise ValueError(
            f"{folder} holds no tokenizer: neither tokenizer.json nor vocab.json and merges.txt. "
            "Copy them from the model this one started from."
        )
    rust = RustTokenizer(BPE.from_file(*map(str, files)))
    rust.normalizer = normalizers.NFC()
    rust.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_WORDS), "isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    rust.decoder = ByteLevel()
    rust.add_special_tokens(list(CONTROL_LITERALS))  # numbered after the vocabulary, in order
    return rust


def _control_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    known = tokenizer.get_vocab()
    missing = [literal for literal in CONTROL_LITERALS if literal not in known]
    if missing:
        raise ValueError(
            f"the tokenizer has no token {', '.join(missing)}. Use the model's own tokenizer."
        )
    return {literal: known[literal] for literal in CONTROL_LITERALS}


def _without_controls(tokenizer: PreTrainedTokenizerBase) -> RustTokenizer:
    """Copy the tokenizer without its added tokens: it reads their literals as ordinary text."""
    rust = getattr(tokenizer, "backend_tokenizer", None)
    if rust is None:
        raise ValueError(
            f"{type(tokenizer).__name__} is not a fast tokenizer. Load it with use_fast=True."
        )
    definition = json.loads(rust.to_str())
    definition["added_tokens"] = []
    definition["post_processor"] = None
    # The transformers class may set these for a call; here every text is read whole.
    definition["truncation"] = definition["padding"] = None
    return RustTokenizer.from_str(json.dumps(definition))
