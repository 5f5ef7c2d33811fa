# SPDX-License-Identifier: Apache-2.0
"""Conversations and media to what the model reads, in both ways of asking (see requests_owl3)."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from owl.families.owl3.hf.configuration_owl3 import Owl3Config
from owl.families.owl3.hf.template_owl3 import CHAT_TEMPLATE, Mark, number_media, to_string
from owl.families.owl3.limits_owl3 import config_problems  # noqa: F401 - see modeling_owl3
from owl.families.owl3.markup_owl3 import TEMPLATES
from owl.families.owl3.tiles_owl3 import Grid, choose_grid, make_tiles
from owl.portable.options_owl import (
    CALL_OPTIONS,
    BatchOptions,
    MediaOptions,
    check_options,
    read_options,
)
from owl.portable.pictures_owl import grids_within, load_frames, load_picture
from owl.portable.pieces_owl import Control, Piece, Text, Tile, join_text
from owl.portable.pixels_owl import Resize, resize_with_pillow, resize_with_torch
from owl.portable.requests_owl import (
    Ending,
    Request,
    RequestError,
    check_counts,
    read_conversation,
    read_requests,
)
from owl.portable.tokenizer_owl import control_ids, load_tokenizer, without_controls

IGNORE_INDEX = -100
SETTINGS_FILE = "processor_config.json"
SETTINGS = ("image_size", "template", "parity")
RESIZES: dict[str, Resize] = {"torch": resize_with_torch, "pillow": resize_with_pillow}
"""What each value of the setting parity resizes pictures with."""


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
        parity: whose pixels the tiles are, bit for bit: torch (training's, within 2 levels of
            Pillow's) or pillow (the published processor's, slower).
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
        parity: str = "torch",
    ) -> None:
        if template not in TEMPLATES:
            raise ValueError(f"template={template!r} must be one of {', '.join(TEMPLATES)}.")
        if parity not in RESIZES:
            raise ValueError(f"parity={parity!r} must be one of {', '.join(RESIZES)}.")
        super().__init__(tokenizer, chat_template=chat_template or CHAT_TEMPLATE)
        self.image_size, self.template, self.parity = image_size, template, parity
        self._plain = without_controls(tokenizer)
        self._control_ids = control_ids(tokenizer)
        self._placeholder = self._plain.encode(Mark.image.value, add_special_tokens=False).ids

    # Loading and saving.

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> "Owl3Processor":
        """Load the tokenizer of a folder; tile size and template come from its config.json.

        Args:
            pretrained_model_name_or_path: a published folder, or one of ours.
            **kwargs: image_size, template, parity, chat_template; the rest goes to the tokenizer.
        """
        folder = pretrained_model_name_or_path
        settings: dict[str, Any] = {
            name: kwargs.pop(name) for name in (*SETTINGS, "chat_template") if name in kwargs
        }
        for name in ("_from_auto", "trust_remote_code"):
            kwargs.pop(name, None)
        for name in CALL_OPTIONS:
            if name in kwargs and not name.startswith("padding"):  # a tokenizer's own
                raise RequestError(f"{name} is an option of each call, not of from_pretrained.")
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
        values = {"processor_class": type(self).__name__}
        values |= {name: getattr(self, name) for name in SETTINGS}
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
        max_frames: int | None = None,
        number_media: bool = False,
        inference_mode: bool = True,
        padding: bool | str = True,
        padding_side: str = "left",
        return_tensors: str | None = "pt",
        **options: Any,
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
            max_frames: most frames of one video. By default 16 of a file or an array, and all of a
                list of frames, as published.
            number_media: write `Picture 1: ` before the first picture, and so on.
            inference_mode: leave a last answer out, as published. False keeps it, closes the
                conversation and adds labels.
            padding: pad rows to the longest; without, a batch must be of equal lengths.
            padding_side: left or right; media_offset is the same either way.
            return_tensors: "pt", or None for lists of tokens.
            **options: what transformers hands to every processor; see options_owl3.

        Returns:
            input_ids and attention_mask [b, t]; labels [b, t] with inference_mode=False; and where
            there are pictures pixel_values [m, 3, s, s] float32 of the whole batch, and
            media_offset, for each row the index of each tile's first placeholder, padding not
            counted.

        Raises:
            RequestError: marks and media do not fit, or an option is not known.
            MediaError: a picture or video cannot be read.
        """
        check_options(options, (*CALL_OPTIONS, "inference_mode"))
        shown, laid_out = read_options(
            {
                "cut_enable": cut_enable, "max_tiles": max_tiles, "max_frames": max_frames,
                "number_media": number_media, "padding": padding, "padding_side": padding_side,
                "return_tensors": return_tensors,
            }
        )  # fmt: skip
        requests = list(read_requests(text, images, videos, answered=not inference_mode))
        return self._encode_batch(requests, shown, laid_out, labels=not inference_mode)

    # Today's way.

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_labels: bool = False,
        cut_enable: bool = True,
        max_tiles: int | None = None,
        max_frames: int | None = None,
        number_media: bool = False,
        padding: bool | str = True,
        padding_side: str = "left",
        return_tensors: str | None = "pt",
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Render conversations, and with tokenize=True encode them with their media.

        Args:
            conversation: messages, or several lists of messages. Content is a string or a list of
                {"type": "text", "text": ...}, {"type": "image", "image" | "path" | "url": ...}
                and {"type": "video", "video" | "path" | "url": ...}.
            chat_template: Jinja in place of the published format; only with tokenize=False.
            add_generation_prompt: end with the header of the assistant's answer.
            continue_final_message: leave the last message open, for the model to go on with it.
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
            processor_kwargs: options of __call__ once more, as transformers' pipelines hand them.
            **kwargs: variables of a chat_template given here; see options_owl3 otherwise.
        """
        if chat_template is not None and chat_template != self.chat_template:
            if tokenize:
                raise RequestError(
                    "chat_template with tokenize=True: render with tokenize=False, then pass the "
                    "string and its media to the processor."
                )
            return self.tokenizer.apply_chat_template(
                conversation, chat_template=chat_template, tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message, number_media=number_media, **kwargs,
            )  # fmt: skip
        check_options(kwargs, _TEMPLATE_OPTIONS)
        shown, laid_out = read_options(
            {
                "cut_enable": cut_enable, "max_tiles": max_tiles, "max_frames": max_frames,
                "number_media": number_media, "padding": padding, "padding_side": padding_side,
                "return_tensors": return_tensors,
            },
            processor_kwargs,
        )  # fmt: skip
        ending = Ending.of(add_generation_prompt, continue_final_message)
        if not conversation:
            raise RequestError("the conversation is empty: give at least one message.")
        is_batch = not isinstance(conversation[0], dict)
        requests = [
            read_conversation(messages, ending, need_media=tokenize)
            for messages in (conversation if is_batch else [conversation])
        ]
        if not tokenize:
            texts = [to_string(_numbered(request.pieces, shown)) for request in requests]
            return texts if is_batch else texts[0]
        encoded = self._encode_batch(requests, shown, laid_out, labels=return_labels)
        return encoded if return_dict else encoded["input_ids"]

    # Encoding.

    def _encode_batch(
        self,
        requests: Sequence[Request],
        shown: MediaOptions,
        laid_out: BatchOptions,
        *,
        labels: bool,
    ) -> BatchFeature:
        rows = [self.encode(request, shown) for request in requests]
        lengths = {len(row.tokens) for row in rows}
        if laid_out.return_tensors and not laid_out.pads and len(lengths) > 1:
            raise RequestError(
                f"rows of {sorted(lengths)} tokens make no tensor: leave padding=True."
            )
        side = laid_out.padding_side if laid_out.pads else None
        batch = _text_columns(rows, labels, self._pad_id(), side)
        if laid_out.return_tensors:
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
                row.add(tokens, learned=piece.weight > 0)
            elif isinstance(piece, Control):
                row.add([self._control_ids[piece.literal]], learned=piece.weight > 0)
            else:
                row.media_offset.append(len(row.tokens))
                row.add(self._placeholder, learned=False)
        return row

    def _with_media(self, request: Request, options: MediaOptions, row: Row) -> Iterator[Piece]:
        """Write tiles for marks, and put their pixels into `row`."""
        check_counts(request)
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
        grids = grids_within(options.max_tiles) if options.cut else []
        grid = choose_grid(*picture.size, self.image_size, grids) if grids else None
        row.tiles.append(self._tiles(picture, grid))
        yield from TEMPLATES[self.template].cut_picture(grid) if grid else [Tile()]

    def _clip(self, source: Any, options: MediaOptions, row: Row) -> Iterator[Piece]:
        frames = load_frames(source, options.max_frames)
        row.tiles += [self._tiles(frame) for frame in frames]
        yield from TEMPLATES[self.template].clip(len(frames))

    def _tiles(self, picture: Image.Image, grid: Grid | None = None) -> Tensor:
        return make_tiles(np.array(picture), self.image_size, grid, RESIZES[self.parity])

    def _pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return self._control_ids["<|endoftext|>"] if pad is None else int(pad)


_TEMPLATE_OPTIONS = (
    *CALL_OPTIONS, "add_generation_prompt", "continue_final_message", "tokenize", "return_dict",
    "return_labels",
)  # fmt: skip
_HUB_OPTIONS = ("cache_dir", "revision", "token", "local_files_only", "subfolder")


def _saved_settings(folder: Path) -> dict[str, Any]:
    """Read what save_pretrained wrote, if it did; published folders have no such file."""
    file = folder / SETTINGS_FILE
    values = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {name: values[name] for name in SETTINGS if name in values}


def _numbered(pieces: Sequence[Piece | Mark], options: MediaOptions) -> Iterator[Piece | Mark]:
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
