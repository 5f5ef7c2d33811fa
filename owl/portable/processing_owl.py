# SPDX-License-Identifier: Apache-2.0
"""Encodes conversations and their media for a model, in both forms of requests_owl.

A family's processor adds how its pictures and videos become tiles, and its chat format.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils import cached_file

from owl.portable.loss_owl import IGNORE_INDEX
from owl.portable.marks_owl import ChatFormat, Mark, number_media, to_string
from owl.portable.media_processor_owl import OwlMediaProcessor
from owl.portable.options_owl import (
    CALL_OPTIONS,
    GROUPS,
    CallOptions,
    OwlProcessorKwargs,
    read_options,
)
from owl.portable.pieces_owl import Control, Piece, Text, join_text
from owl.portable.requests_owl import (
    Ending,
    Request,
    RequestError,
    check_counts,
    is_message,
    plain_messages,
    read_conversation,
    read_requests,
)
from owl.portable.templates_owl import Template, same_format, template_pieces
from owl.portable.tokenizer_owl import control_ids, without_controls

SETTINGS_FILE = "processor_config.json"
TEMPLATE_FILE = "chat_template.jinja"


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
    valid_processor_kwargs = OwlProcessorKwargs
    image_token, video_token = Mark.image.value, Mark.video.value
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

    # As other processors of transformers have them.

    @property
    def image_processor(self) -> OwlMediaProcessor:
        """Encodes pictures without a text."""
        return OwlMediaProcessor(partial(self._tiles_of, self.write_picture))

    @property
    def video_processor(self) -> OwlMediaProcessor:
        """Encodes videos without a text."""
        return OwlMediaProcessor(partial(self._tiles_of, self.write_video))

    def _tiles_of(self, write: Callable[..., Any], source: Any, options: dict[str, Any]) -> Tensor:
        row = Row()
        list(write(source, read_options(options, known=()), row))
        return self.normalise(torch.cat(row.tiles))

    # Loading and saving.

    @classmethod
    def saved_template(cls, folder: str | Path, **hub: Any) -> str | None:
        """Read the chat template that save_pretrained wrote; None for a published folder."""
        file = cached_file(
            str(folder), TEMPLATE_FILE, _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False, **hub,
        )  # fmt: skip
        return Path(file).read_text(encoding="utf-8") if file else None

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
        messages: Any = None,
        **options: Any,
    ) -> BatchFeature:
        """Encode one request, or a batch of them.

        Args:
            text: messages ({"role", "content"}), a rendered string, or a list of either. In
                messages `<|image|>` and `<|video|>` are replaced by media.
            images: pictures in the order of their marks; for a batch also a list for each row.
                For what a picture may be, see pictures_owl.load_picture.
            videos: likewise; a video is a list of frames, an array or a path.
            messages: another name of text, as published.
            **options: of CallOptions; inference_mode=False, to keep a last answer, which is left
                out as published, close the conversation and add labels; those of transformers
                pass if they request nothing.

        Returns:
            input_ids and attention_mask [b, t]; labels [b, t] with inference_mode=False; and if
            there are pictures pixel_values [m, 3, s, s] float32 of the entire batch, and
            media_offset, for each row the index of each tile's first placeholder, padding not
            counted.

        Raises:
            RequestError: the numbers of marks and media differ, or an option is not known.
            MediaError: a picture or video cannot be read.
        """
        if text is not None and messages is not None:
            raise RequestError("text and messages are names of the same argument: pass one.")
        text = messages if text is None else text
        inference_mode = bool(options.pop("inference_mode", True))
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
        return_tensors: str | None = None,
        return_dict: bool = False,
        return_labels: bool = False,
        return_assistant_tokens_mask: bool = False,
        processor_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Render conversations, and with tokenize=True encode them with their media.

        Args:
            conversation: messages, or several lists of messages. Content is a string or a list of
                {"type": "text", "text": ...}, {"type": "image", "image" | "path" | "url": ...},
                {"type": "video", "video" | "path" | "url": ...} and the OpenAI form of these.
            chat_template: Jinja in place of the processor's own chat_template.
            add_generation_prompt: end with the header of the assistant's answer.
            continue_final_message: leave the last message open for the model to continue.
            tokenize: encode; otherwise return strings, in which `<|image|>` marks a picture.
            return_tensors: "pt", or None for lists, as in transformers; pixel_values are a tensor.
            return_dict: return all model inputs; otherwise input_ids alone.
            return_labels: add labels, which learn the assistant's messages; always tensors.
            return_assistant_tokens_mask: add assistant_masks, 1 at the tokens that labels learn.
            processor_kwargs: further options, as transformers' pipelines pass them; these win.
            **options: of CallOptions, likewise; or variables of a template of your own.
        """
        ending = Ending.of(add_generation_prompt, continue_final_message)
        if not conversation:
            raise RequestError("the conversation is empty: give at least one message.")
        if return_labels:  # they are for training, which takes tensors
            return_tensors = return_tensors or "pt"
        given = {"return_tensors": return_tensors, **options, **(processor_kwargs or {})}
        template = self._own_template(chat_template or self.chat_template, given)
        if template is not None:
            given = {name: given[name] for name in given.keys() - template.variables.keys()}
        chosen = read_options(given, known=_TEMPLATE_OPTIONS)
        is_batch = not is_message(conversation[0])
        requests = [
            self._read(plain_messages(messages), ending, template, need_media=tokenize)
            for messages in (conversation if is_batch else [conversation])
        ]
        if not tokenize:
            texts = [to_string(_numbered(request.pieces, chosen)) for request in requests]
            return texts if is_batch else texts[0]
        asked = {
            "return_labels": return_labels,
            "return_assistant_tokens_mask": return_assistant_tokens_mask,
        }
        for name in (name for name, is_asked in asked.items() if is_asked and template is not None):
            template.check_marks_answers(name)
        encoded = self._encode_batch(
            requests, chosen, labels=return_labels, masks=return_assistant_tokens_mask
        )
        return encoded if return_dict else encoded["input_ids"]

    def _own_template(self, source: str, options: Mapping[str, Any]) -> Template | None:
        """Read a user's chat template, with its variables; None for the published format."""
        if same_format(source, self.default_template):
            return None
        reserved = {*CALL_OPTIONS, *GROUPS} - {"number_media"}
        return Template(source, {n: options[n] for n in options.keys() - reserved})

    def _read(
        self,
        messages: list[Any],
        ending: Ending,
        template: Template | None,
        *,
        need_media: bool,
    ) -> Request:
        request = read_conversation(messages, ending, self.chat, need_media=need_media)
        if template is not None:
            parts = template.render(messages, ending, self.tokenizer)
            request.pieces = list(template_pieces(parts, self.chat))
        return request

    # Encoding.

    def _encode_batch(
        self,
        requests: Sequence[Request],
        options: CallOptions,
        *,
        labels: bool,
        masks: bool = False,
    ) -> BatchFeature:
        rows = [self.encode(request, options) for request in requests]
        lengths = {len(row.tokens) for row in rows}
        if options.return_tensors and not options.pads and len(lengths) > 1:
            raise RequestError(
                f"padding={options.padding!r}: rows of {sorted(lengths)} tokens do not fit into "
                "one tensor. Leave padding=True."
            )
        side = (options.padding_side or "left") if options.pads else None
        columns = text_columns(rows, labels=True, pad_id=self._pad_id(), padding_side=side)
        learned = columns["labels"] if labels else columns.pop("labels")
        if masks:
            columns["assistant_masks"] = [[int(t != IGNORE_INDEX) for t in row] for row in learned]
        if options.return_tensors:
            columns = {name: torch.tensor(column) for name, column in columns.items()}
        tiles = [part for row in rows for part in row.tiles]
        if tiles:
            columns["pixel_values"] = self.normalise(torch.cat(tiles))
            offsets = [row.media_offset for row in rows]
            as_tensors = [torch.tensor(row).long() for row in offsets]
            columns["media_offset"] = as_tensors if options.return_tensors else offsets
        return BatchFeature(columns)

    def encode(self, request: Request, options: CallOptions) -> Row:
        """Encode one request to tokens, labels, tiles, and the offset of each tile."""
        row = Row()
        self.write_pieces(self._with_media(request, options, row), row)
        return row

    def write_pieces(self, pieces: Iterable[Piece], row: Row) -> None:
        """Append the tokens of pieces to a row, and the offset of each tile."""
        for piece in join_text(pieces):
            if isinstance(piece, Text):
                tokens = self._plain.encode(piece.text, add_special_tokens=False).ids
                row.add(tokens, learned=piece.weight > 0)
            elif isinstance(piece, Control):
                row.add([self._control_ids[piece.literal]], learned=piece.weight > 0)
            else:
                row.media_offset.append(len(row.tokens))
                row.add(self._placeholder, learned=False)

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
    "return_assistant_tokens_mask",
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
