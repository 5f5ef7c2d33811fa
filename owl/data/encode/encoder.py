# SPDX-License-Identifier: Apache-2.0
"""RawSample to EncodedSample: token ids, what is learned, tiles, and where each tile stands."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import torch
from torch import Tensor

from owl.config.run import CutPolicy, ImageLibrary, LiteralPolicy
from owl.data.encode.escape import BREAK, escape_literals
from owl.data.encode.images import picture_size, read_tiles, stack_tiles
from owl.data.encode.oversize import Excerpt, choose_frames, excerpt_document
from owl.data.encode.template import (
    Clip,
    Layout,
    Picture,
    prompt_turns,
    render_prompt,
    render_sample,
)
from owl.data.encode.tokenizer import Tokenizer
from owl.data.rng import generator
from owl.data.samples import EncodedSample, RawSample
from owl.data.shards.schema import Json, frame_range, media_use
from owl.errors import DataError
from owl.families.owl3.markup_owl3 import TEMPLATES
from owl.families.owl3.tiles_owl3 import choose_grid
from owl.portable.pieces_owl import CONTEXT, Control, Piece, Text, join_text

ENCODING_VERSION = 1
"""Raised when the same sample would give other tokens or tiles: it names cached lengths."""

PUBLISHED_SINGLE_CUT = 0.2
"""Share of single pictures that are cut in instruction tuning (paper, section 3)."""

Sizes = Mapping[str, tuple[int, int]]
"""File name -> width and height, upright."""


WHOLE = Excerpt()
"""A sample as it is."""


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
        max_frames: that a clip shows at most; None for all.
        literals: what becomes of text that contains the template's markup.
        images: library that decodes and resizes pictures.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: str,
        image_size: int,
        *,
        max_frames: int | None = None,
        literals: LiteralPolicy = LiteralPolicy.reject,
        images: ImageLibrary = ImageLibrary.fast,
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.image_size = image_size
        self.max_frames = max_frames
        self.literals = literals
        self.images = images
        self._template = TEMPLATES[template]

    @property
    def name(self) -> str:
        """Names everything that the lengths of a sample depend on."""
        plain = f"{ENCODING_VERSION} {self.tokenizer.content_hash} {self.template}"
        frames = "" if self.max_frames is None else f" frames<={self.max_frames}"
        escaped = "" if self.literals == LiteralPolicy.reject else " escape"
        return f"{plain} {self.image_size}{frames}{escaped}"

    def encode(
        self, raw: RawSample, *, source: str, cut: CutChoice, excerpt: Excerpt = WHOLE
    ) -> EncodedSample:
        """Encode a sample, or an excerpt of it, for training.

        Raises:
            DataError: E307..E310, a picture cannot be used.
        """
        document, layouts, row = self._laid(
            raw.document, _header_sizes(raw, raw.document), cut, excerpt
        )
        tiles = self._tiles(raw, document, layouts)
        return self._finish(raw, excerpt.name(raw.key), source, row, tiles)

    def encode_text(
        self, raw: RawSample, sizes: Sizes, *, source: str, cut: CutChoice, excerpt: Excerpt = WHOLE
    ) -> EncodedSample:
        """Encode a sample whose pictures somebody else reads: all but `tiles`, which is [0, ...].

        Args:
            raw: its files are not looked at.
            sizes: of its pictures.
            source: its name.
            cut: which pictures are cut.
            excerpt: which part of the sample.
        """
        _, _, row = self._laid(raw.document, sizes, cut, excerpt)
        return self._sample(excerpt.name(raw.key), source, row, stack_tiles([], self.image_size))

    def encode_prompt(
        self, raw: RawSample, *, source: str = "", cut: CutChoice = CutChoice.none
    ) -> EncodedSample:
        """Encode a conversation up to where the assistant's next answer begins; learns nothing."""
        asked = {**raw.document, "turns": prompt_turns(raw.document)}
        layouts = self.layouts(asked, _header_sizes(raw, asked), cut)
        row = self._lay(render_prompt(self._readable(asked), layouts, self._template))
        row.loss_weights = [CONTEXT] * len(row.tokens)
        return self._finish(raw, raw.key, source, row, self._tiles(raw, asked, layouts))

    def measure(
        self, document: Json, sizes: Sizes, cut: CutChoice, excerpt: Excerpt = WHOLE
    ) -> tuple[int, int]:
        """Count a sample's text tokens (placeholders included) and tiles, without its pixels."""
        _, _, row = self._laid(document, sizes, cut, excerpt)
        return len(row.tokens), len(row.media_offset)

    def layouts(
        self, document: Json, sizes: Sizes, cut: CutChoice, max_frames: int | None = None
    ) -> list[Layout]:
        """Say how each place that shows media shows it: one tile, a grid, or frames.

        `max_frames` lowers the encoder's own limit.
        """
        places = list(media_use(document))
        alone = len(places) == 1
        limits = [limit for limit in (self.max_frames, max_frames) if limit is not None]
        frames = min(limits, default=None)
        return [
            self._layout(document["media"][index], part, sizes, cut, alone, frames)
            for index, part in places
        ]

    def _laid(
        self, document: Json, sizes: Sizes, cut: CutChoice, excerpt: Excerpt
    ) -> tuple[Json, list[Layout], TokenRow]:
        """What an excerpt leaves of a document, how it shows its media, and its tokens.

        The layouts are the whole document's: a picture is not cut only because the others that it
        came with were left out.
        """
        layouts = self.layouts(document, sizes, cut, excerpt.frames)
        left, places = excerpt_document(document, excerpt)
        layouts = layouts[places]
        row = self._lay(render_sample(self._readable(left), layouts, self._template))
        return left, layouts, row

    def _readable(self, document: Json) -> Json:
        return escape_literals(document) if self.literals == LiteralPolicy.escape else document

    def _layout(
        self,
        media: Json,
        part: Json,
        sizes: Sizes,
        cut: CutChoice,
        alone: bool,
        max_frames: int | None,
    ) -> Layout:
        if media["type"] == "frames":
            return Clip(len(choose_frames(frame_range(part, media), max_frames)))
        mode = media.get("cut", "auto")
        wanted = (mode == "on" and cut >= CutChoice.marked) or (
            mode == "auto" and alone and cut == CutChoice.single
        )
        return Picture(choose_grid(*sizes[media["file"]], self.image_size) if wanted else None)

    def _lay(self, pieces: Iterable[Piece]) -> TokenRow:
        row = TokenRow()
        for piece in join_text(pieces):
            if isinstance(piece, Text):
                for text in piece.text.split(BREAK):
                    row.add(self.tokenizer.encode(text), piece.weight)
            elif isinstance(piece, Control):
                row.add([self.tokenizer.control_id(piece.literal)], piece.weight)
            else:
                row.media_offset.append(len(row.tokens))
                row.add(self.tokenizer.image_placeholder, CONTEXT)
        return row

    def _finish(
        self, raw: RawSample, key: str, source: str, row: TokenRow, pictures: Iterable[Tensor]
    ) -> EncodedSample:
        tiles = stack_tiles(list(pictures), self.image_size)
        if len(tiles) != len(row.media_offset):
            raise DataError(
                "E405",
                f"{len(row.media_offset)} placeholders but {len(tiles)} tiles.",
                shard=raw.shard,
                key=raw.key,
            )
        return self._sample(key, source, row, tiles)

    def _sample(self, key: str, source: str, row: TokenRow, tiles: Tensor) -> EncodedSample:
        return EncodedSample(
            key=key,
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
            for file in shown_files(media, part, layout):
                yield read_tiles(raw.files[file], self.image_size, grid, self.images)


def shown_files(media: Json, part: Json, layout: Layout | None = None) -> list[str]:
    """Files that one place in the text shows, in order; a Clip says how many of a clip's frames."""
    if media["type"] == "frames":
        limit = layout.frames if isinstance(layout, Clip) else None
        return [media["files"][frame] for frame in choose_frames(frame_range(part, media), limit)]
    return [media["file"]]


def _header_sizes(raw: RawSample, document: Json) -> Sizes:
    """Sizes of the pictures that a document shows, read from their headers. Frames are never cut,
    so theirs are not needed.
    """
    shown = (document["media"][index] for index, _ in media_use(document))
    files = {media["file"] for media in shown if media["type"] == "image"}
    return {file: picture_size(raw.files[file]) for file in files}
