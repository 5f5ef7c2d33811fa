# SPDX-License-Identifier: Apache-2.0
"""RawSample to EncodedSample: token ids, what is learned, tiles, and where each tile stands."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import torch
from torch import Tensor

from owl.config.run import CutPolicy, TemplateKind
from owl.data.draw import generator
from owl.data.images import choose_grid, decode_picture, make_tiles, picture_size, stack_tiles
from owl.data.samples import EncodedSample, RawSample
from owl.data.schema import Json, frame_range, media_use
from owl.data.template import (
    CONTEXT,
    TEMPLATES,
    Clip,
    Control,
    Layout,
    Picture,
    Piece,
    Text,
    prompt_turns,
    render_prompt,
    render_sample,
)
from owl.data.tokenizer import Tokenizer
from owl.errors import DataError

ENCODING_VERSION = 1
"""Raised when the same sample would give other tokens or tiles: it names cached lengths."""

PUBLISHED_SINGLE_CUT = 0.2
"""Share of single pictures that are cut in instruction tuning (paper, section 3)."""

Sizes = Mapping[str, tuple[int, int]]
"""File name -> width and height, upright."""


class CutChoice(IntEnum):
    """Which pictures of one sample are cut."""

    none = 0
    marked = 1  # only those whose media entry says "cut": "on" (text-rich pictures)
    single = 2  # those, and a picture that is the sample's only one


def choose_cut(policy: CutPolicy, *, seed: int, source: str, epoch: int, index: int) -> CutChoice:
    """Decide for one sample, the same wherever and whenever it is asked.

    Args:
        policy: the source's.
        seed: `data.seed`.
        source: its name.
        epoch: pass over the source.
        index: sample number within the source.
    """
    if policy is CutPolicy.off:
        return CutChoice.none
    if policy is CutPolicy.on:
        return CutChoice.single
    drawn = generator("cut", seed, source, epoch, index).random()
    return CutChoice.single if drawn < PUBLISHED_SINGLE_CUT else CutChoice.marked


@dataclass(slots=True)
class TokenRow:
    """Tokens while they are laid down."""

    tokens: list[int] = field(default_factory=list)
    loss_weights: list[float] = field(default_factory=list)
    media_offset: list[int] = field(default_factory=list)

    def add(self, ids: list[int], weight: float) -> None:
        """Append tokens of equal weight."""
        self.tokens += ids
        self.loss_weights += [weight] * len(ids)


class SampleEncoder:
    """Applies one tokenizer, template and tile size.

    Args:
        tokenizer: reads the text.
        template: published version of the markup around tiles.
        image_size: side of a tile in pixels, s.
    """

    def __init__(self, tokenizer: Tokenizer, template: TemplateKind, image_size: int) -> None:
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.name = f"{ENCODING_VERSION} {tokenizer.content_hash} {template} {image_size}"
        """Names everything that the lengths of a sample depend on."""
        self._template = TEMPLATES[template]

    def encode(self, raw: RawSample, *, source: str, cut: CutChoice) -> EncodedSample:
        """Encode a sample for training.

        Raises:
            DataError: E307..E310, a picture cannot be used.
        """
        layouts = self.layouts(raw.document, _header_sizes(raw, raw.document), cut)
        row = self._lay(render_sample(raw.document, layouts, self._template))
        return self._finish(raw, raw.document, source, row, layouts)

    def encode_prompt(
        self, raw: RawSample, *, source: str = "", cut: CutChoice = CutChoice.none
    ) -> EncodedSample:
        """Encode a conversation up to where the assistant's next answer begins; learns nothing."""
        asked = {**raw.document, "turns": prompt_turns(raw.document)}
        layouts = self.layouts(asked, _header_sizes(raw, asked), cut)
        row = self._lay(render_prompt(asked, layouts, self._template))
        row.loss_weights = [CONTEXT] * len(row.tokens)
        return self._finish(raw, asked, source, row, layouts)

    def measure(self, document: Json, sizes: Sizes, cut: CutChoice) -> tuple[int, int]:
        """Count a sample's text tokens (placeholders included) and tiles, without its pixels."""
        layouts = self.layouts(document, sizes, cut)
        row = self._lay(render_sample(document, layouts, self._template))
        return len(row.tokens), len(row.media_offset)

    def layouts(self, document: Json, sizes: Sizes, cut: CutChoice) -> list[Layout]:
        """Say how each place that shows media shows it: one tile, a grid, or frames."""
        places = list(media_use(document))
        alone = len(places) == 1
        return [self._layout(document["media"][i], part, sizes, cut, alone) for i, part in places]

    def _layout(self, media: Json, part: Json, sizes: Sizes, cut: CutChoice, alone: bool) -> Layout:
        if media["type"] == "frames":
            return Clip(len(frame_range(part, media)))
        mode = media.get("cut", "auto")
        wanted = (mode == "on" and cut >= CutChoice.marked) or (
            mode == "auto" and alone and cut == CutChoice.single
        )
        return Picture(choose_grid(*sizes[media["file"]], self.image_size) if wanted else None)

    def _lay(self, pieces: Iterable[Piece]) -> TokenRow:
        row = TokenRow()
        for piece in join_text(pieces):
            if isinstance(piece, Text):
                row.add(self.tokenizer.encode(piece.text), piece.weight)
            elif isinstance(piece, Control):
                row.add([self.tokenizer.control_id(piece.literal)], piece.weight)
            else:
                row.media_offset.append(len(row.tokens))
                row.add(self.tokenizer.image_placeholder, CONTEXT)
        return row

    def _finish(
        self,
        raw: RawSample,
        document: Json,
        source: str,
        row: TokenRow,
        layouts: Iterable[Layout],
    ) -> EncodedSample:
        tiles = stack_tiles(list(self._tiles(raw, document, layouts)), self.image_size)
        if len(tiles) != len(row.media_offset):
            raise DataError(
                "E405",
                f"{len(row.media_offset)} placeholders but {len(tiles)} tiles.",
                shard=raw.shard,
                key=raw.key,
            )
        return EncodedSample(
            key=raw.key,
            source=source,
            tokens=torch.tensor(row.tokens, dtype=torch.int64),
            loss_weights=torch.tensor(row.loss_weights, dtype=torch.float32),
            tiles=tiles,
            media_offset=row.media_offset,
        )

    def _tiles(self, raw: RawSample, document: Json, layouts: Iterable[Layout]) -> Iterator[Tensor]:
        for (index, part), layout in zip(media_use(document), layouts, strict=True):
            media = document["media"][index]
            grid = layout.grid if isinstance(layout, Picture) else None
            for file in shown_files(media, part):
                yield make_tiles(decode_picture(raw.files[file]), self.image_size, grid)


def join_text(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Join neighbouring text of equal weight, since the published processor tokenises it as one."""
    held: Text | None = None
    for piece in pieces:
        if (
            isinstance(piece, Text)
            and held is not None
            and not held.closed
            and piece.weight == held.weight
        ):
            held = Text(held.text + piece.text, held.weight, piece.closed)
            continue
        if held is not None:
            yield held
        held = piece if isinstance(piece, Text) else None
        if held is None:
            yield piece
    if held is not None:
        yield held


def shown_files(media: Json, part: Json) -> list[str]:
    """Files that one place in the text shows, in order."""
    if media["type"] == "frames":
        return [media["files"][frame] for frame in frame_range(part, media)]
    return [media["file"]]


def _header_sizes(raw: RawSample, document: Json) -> Sizes:
    """Sizes of the pictures that a document shows, read from their headers."""
    return {
        file: picture_size(raw.files[file])
        for index, part in media_use(document)
        for file in shown_files(document["media"][index], part)
    }
