# SPDX-License-Identifier: Apache-2.0
"""Encodes conversations and their media for a model, in both forms of requests_owl.

A family's processor adds how its pictures and videos become tiles, and its chat format.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from owl.portable.marks_owl import ChatFormat, Mark, number_media, to_string
from owl.portable.options_owl import CALL_OPTIONS, CallOptions, read_options
from owl.portable.pieces_owl import Control, Piece, Text, join_text
from owl.portable.requests_owl import (
    Ending,
    Request,
    RequestError,
    check_counts,
    read_conversation,
    read_requests,
)
from owl.portable.tokenizer_owl import control_ids, without_controls

IGNORE_INDEX = -100
SETTINGS_FILE = "processor_config.json"


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


class OwlProcessor(ProcessorMixin):
    """Encodes requests for one model.

    Args:
        tokenizer: a fast tokenizer with the control tokens of Qwen2.
        chat_template: Jinja for apply_chat_template.
    """

    attributes = ["tokenizer"]  # noqa: RUF012 - transformers' own name
    tokenizer_class = "AutoTokenizer"
    chat: ClassVar[ChatFormat]
    settings: ClassVar[tuple[str, ...]]  # attributes kept in processor_config.json
    default_template: ClassVar[str] = ""  # Jinja of the published format

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat_template: str) -> None:
        super().__init__(tokenizer, chat_template=chat_template)
        self._plain = without_controls(tokenizer)
        self._control_ids = self.find_controls(tokenizer)
        self._placeholder = self.find_placeholder()

    # For families.

    def find_controls(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
        """Look up the ids of the format's control tokens: those of Qwen2 unless overridden."""
        return control_ids(tokenizer)

    def find_placeholder(self) -> list[int]:
        """Return the ids that hold the place of one tile: `<|image|>` as plain text by default."""
        return self._plain.encode(Mark.image.value, add_special_tokens=False).ids

    def write_picture(self, source: Any, options: CallOptions, row: Row) -> Iterator[Piece]:
        """Load a picture, append its tiles to `row.tiles`, and write its pieces."""
        raise NotImplementedError

    def write_video(self, source: Any, options: CallOptions, row: Row) -> Iterator[Piece]:
        """Load a video, append its frames to `row.tiles`, and write its pieces."""
        raise NotImplementedError

    def normalise(self, tiles: Tensor) -> Tensor:
        """Map [m, 3, s, s] uint8 to the float32 values that the model takes."""
        raise NotImplementedError

    @classmethod
    def settings_of(cls, config: Any) -> dict[str, Any]:
        """Return the settings that follow from a model's config."""
        return {}

    @classmethod
    def template_of(cls, settings: Mapping[str, Any]) -> str:
        """Return the Jinja of the published format, for such settings."""
        return cls.default_template

    # Loading and saving.

    @classmethod
    def saved_settings(cls, folder: str | Path) -> dict[str, Any]:
        """Read the settings that save_pretrained wrote; empty for a published folder."""
        file = Path(folder) / SETTINGS_FILE
        values = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return {name: values[name] for name in cls.settings if name in values}

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> list[str]:
        """Write the tokenizer, its chat template, and the processor's settings."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.chat_template = self.chat_template
        written = list(self.tokenizer.save_pretrained(folder))
        file = folder / SETTINGS_FILE
        values = {"processor_class": type(self).__name__}
        values |= {name: getattr(self, name) for name in self.settings}
        file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        return [*written, str(file)]

    @property
    def model_input_names(self) -> list[str]:
        """Those of the processor's outputs that the model takes."""
        return ["input_ids", "attention_mask", "pixel_values", "media_offset"]

    # The form of the model cards.

    def __call__(
        self,
        text: Any = None,
        images: Any = None,
        videos: Any = None,
        *,
        inference_mode: bool = True,
        **options: Any,
    ) -> BatchFeature:
        """Encode one request, or a batch of them.

        Args:
            text: messages ({"role", "content"}), a rendered string, or a list of either. In
                messages `<|image|>` and `<|video|>` are replaced by media.
            images: pictures in the order of their marks; for a batch also a list for each row.
                For what a picture may be, see pictures_owl.load_picture.
            videos: likewise; a video is a list of frames, an array or a path.
            inference_mode: leave a last answer out, as published. False keeps it, closes the
                conversation and adds labels.
            **options: of CallOptions; those of transformers pass if they request nothing.

        Returns:
            input_ids and attention_mask [b, t]; labels [b, t] with inference_mode=False; and if
            there are pictures pixel_values [m, 3, s, s] float32 of the entire batch, and
            media_offset, for each row the index of each tile's first placeholder, padding not
            counted.

        Raises:
            RequestError: the numbers of marks and media differ, or an option is not known.
            MediaError: a picture or video cannot be read.
        """
        chosen = read_options(options, known=("inference_mode",))
        requests = read_requests(text, images, videos, self.chat, answered=not inference_mode)
        return self._encode_batch(requests, chosen, labels=not inference_mode)

    # The form of current transformers.

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
        processor_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Render conversations, and with tokenize=True encode them with their media.

        Args:
            conversation: messages, or several lists of messages. Content is a string or a list of
                {"type": "text", "text": ...}, {"type": "image", "image" | "path" | "url": ...}
                and {"type": "video", "video" | "path" | "url": ...}.
            chat_template: Jinja in place of the published format; only with tokenize=False.
            add_generation_prompt: end with the header of the assistant's answer.
            continue_final_message: leave the last message open for the model to continue.
            tokenize: encode; otherwise return strings, in which `<|image|>` marks a picture.
            return_dict: return all model inputs; otherwise input_ids alone.
            return_labels: add labels, which learn the assistant's messages.
            processor_kwargs: further options, as transformers' pipelines pass them; these win.
            **options: of CallOptions, likewise; or variables of `chat_template`.
        """
        if chat_template is not None and chat_template != self.chat_template:
            if tokenize:
                raise RequestError(
                    "chat_template with tokenize=True: render with tokenize=False, then pass the "
                    "string and its media to the processor."
                )
            unused = {*CALL_OPTIONS} - {"number_media"}
            return self.tokenizer.apply_chat_template(
                conversation, chat_template=chat_template, tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **{name: options[name] for name in options.keys() - unused},
            )  # fmt: skip
        chosen = read_options({**options, **(processor_kwargs or {})}, known=_TEMPLATE_OPTIONS)
        ending = Ending.of(add_generation_prompt, continue_final_message)
        if not conversation:
            raise RequestError("the conversation is empty: give at least one message.")
        is_batch = not isinstance(conversation[0], dict)
        requests = [
            read_conversation(messages, ending, self.chat, need_media=tokenize)
            for messages in (conversation if is_batch else [conversation])
        ]
        if not tokenize:
            texts = [to_string(_numbered(request.pieces, chosen)) for request in requests]
            return texts if is_batch else texts[0]
        encoded = self._encode_batch(requests, chosen, labels=return_labels)
        return encoded if return_dict else encoded["input_ids"]

    # Encoding.

    def _encode_batch(
        self, requests: Sequence[Request], options: CallOptions, *, labels: bool
    ) -> BatchFeature:
        rows = [self.encode(request, options) for request in requests]
        lengths = {len(row.tokens) for row in rows}
        if options.return_tensors and not options.pads and len(lengths) > 1:
            raise RequestError(
                f"padding={options.padding!r}: rows of {sorted(lengths)} tokens do not fit into "
                "one tensor. Leave padding=True."
            )
        side = options.padding_side if options.pads else None
        columns = text_columns(rows, labels=labels, pad_id=self._pad_id(), padding_side=side)
        if options.return_tensors:
            columns = {name: torch.tensor(column) for name, column in columns.items()}
        tiles = [part for row in rows for part in row.tiles]
        if tiles:
            columns["pixel_values"] = self.normalise(torch.cat(tiles))
            columns["media_offset"] = [torch.tensor(row.media_offset).long() for row in rows]
        return BatchFeature(columns)

    def encode(self, request: Request, options: CallOptions) -> Row:
        """Encode one request to tokens, labels, tiles, and the offset of each tile."""
        row = Row()
        for piece in join_text(self._with_media(request, options, row)):
            if isinstance(piece, Text):
                tokens = self._plain.encode(piece.text, add_special_tokens=False).ids
                row.add(tokens, learned=piece.weight > 0)
            elif isinstance(piece, Control):
                row.add([self._control_ids[piece.literal]], learned=piece.weight > 0)
            else:
                row.media_offset.append(len(row.tokens))
                row.add(self._placeholder, learned=False)
        return row

    def _with_media(self, request: Request, options: CallOptions, row: Row) -> Iterator[Piece]:
        """Replace marks by the pieces of their media, and collect the tiles in `row`."""
        check_counts(request)
        images, videos = iter(request.images), iter(request.videos)
        for piece in _numbered(request.pieces, options):
            if piece is Mark.image:
                yield from self.write_picture(next(images), options, row)
            elif piece is Mark.video:
                yield from self.write_video(next(videos), options, row)
            else:
                yield piece

    def _pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return self._control_ids["<|endoftext|>"] if pad is None else int(pad)


_TEMPLATE_OPTIONS = (
    "add_generation_prompt", "continue_final_message", "tokenize", "return_dict", "return_labels",
)  # fmt: skip


def _numbered(pieces: Sequence[Piece | Mark], options: CallOptions) -> Iterator[Piece | Mark]:
    return number_media(pieces) if options.number_media else iter(pieces)


def text_columns(
    rows: Sequence[Row], *, labels: bool, pad_id: int, padding_side: str | None
) -> dict[str, Any]:
    """Stack rows, padded to the longest if a side is given.

    Returns:
        input_ids, attention_mask and maybe labels: a list of tokens for each row.
    """
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
