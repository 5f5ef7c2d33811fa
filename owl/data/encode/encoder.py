# SPDX-License-Identifier: Apache-2.0
"""RawSample to EncodedSample: token ids, loss weights, positions, tiles and their offsets."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from owl.config.run import ImageLibrary, LiteralPolicy
from owl.data.encode.escape import BREAK, escape_literals
from owl.data.encode.images import picture_size
from owl.data.encode.oversize import Excerpt, excerpt_document
from owl.data.encode.template import render_prompt, render_sample
from owl.data.encode.tokenizer import Tokenizer
from owl.data.families import Reading
from owl.data.samples import EncodedSample, RawSample
from owl.data.shards.document import Document, ImageMedia
from owl.data.shown import CutChoice, Shown, Sizes
from owl.errors import DataError
from owl.portable.pieces_owl import CONTEXT, Control, Piece, Text, Tile, join_text

ENCODING_VERSION = 1
"""Raised when the same sample would give other tokens or tiles: it names cached lengths."""

COMPLETE = Excerpt()
"""The entire sample."""

EMPTY_KEY = "(empty)"
"""Key of the sample in a micro-batch whose samples were all skipped."""


@dataclass(slots=True)
class TokenRow:
    """The tokens of a sample while they are written."""

    tokens: list[int] = field(default_factory=list)
    loss_weights: list[float] = field(default_factory=list)
    media_offset: list[int] = field(default_factory=list)
    tiles: list[Tile] = field(default_factory=list)

    def add(self, ids: Sequence[int], weight: float) -> None:
        """Append tokens of equal weight."""
        self.tokens += ids
        self.loss_weights += [weight] * len(ids)


class SampleEncoder:
    """Encodes samples with one tokenizer as one model family reads them.

    Args:
        tokenizer: reads the text; has the control tokens of the reading.
        reading: the family's template, placeholders, pixels and positions.
        max_frames: that a clip shows at most; None for all.
        literals: what becomes of text that contains the template's markup.
        images: library that decodes and resizes pictures.

    Raises:
        DataError: E404, the tokenizer cannot write the family's placeholders.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        reading: Reading,
        *,
        max_frames: int | None = None,
        literals: LiteralPolicy = LiteralPolicy.reject,
        images: ImageLibrary = ImageLibrary.fast,
    ) -> None:
        reading.check_tokenizer(tokenizer)
        self.tokenizer = tokenizer
        self.reading = reading
        self.max_frames = max_frames
        self.literals = literals
        self.images = images

    @property
    def name(self) -> str:
        """Names everything that the lengths of a sample depend on."""
        settings = " ".join(self.reading.settings.values())
        frames = "" if self.max_frames is None else f" frames<={self.max_frames}"
        escaped = "" if self.literals == LiteralPolicy.reject else " escape"
        return f"{ENCODING_VERSION} {self.tokenizer.content_hash} {settings}{frames}{escaped}"

    def encode(
        self, raw: RawSample, *, source: str, cut: CutChoice, excerpt: Excerpt = COMPLETE
    ) -> EncodedSample:
        """Encode a sample, or an excerpt of it, for training.

        Raises:
            DataError: E307..E310, a picture cannot be used.
        """
        places, row = self.write(raw.document, _sizes(raw), cut, excerpt)
        return self._finish(raw, excerpt.name(raw.key), source, row, places)

    def encode_text(
        self, raw: RawSample, *, source: str, cut: CutChoice, excerpt: Excerpt = COMPLETE
    ) -> EncodedSample:
        """Encode a sample whose pictures another rank reads: all but `tiles`, which is [0, ...].

        The sample has sizes and no files, as Dataset.read_text returns it.
        """
        _, row = self.write(raw.document, raw.sizes, cut, excerpt)
        return self._sample(excerpt.name(raw.key), source, row, self.reading.no_pixels())

    def encode_prompt(
        self, raw: RawSample, *, source: str = "", cut: CutChoice = CutChoice.none
    ) -> EncodedSample:
        """Encode a conversation up to where the assistant's next answer begins; learns nothing."""
        asked = raw.document.prompt()
        places = self.places(asked, _sizes(raw), cut)
        pieces = render_prompt(self._readable(asked), places, self.reading)
        row = self._row(pieces, self.tokenizer.encode)
        row.loss_weights = [CONTEXT] * len(row.tokens)
        return self._finish(raw, raw.key, source, row, places)

    def empty(self) -> EncodedSample:
        """One token that teaches nothing, for a micro-batch whose samples were all skipped.

        Every rank must run every micro-batch, or the other ranks would wait for it endlessly, and
        no other sample may replace a skipped one, or the stream would depend on the damage.
        """
        row = TokenRow()
        row.add([self.tokenizer.control_id(self.reading.controls[-1])], CONTEXT)
        return self._sample(EMPTY_KEY, "", row, self.reading.no_pixels())

    def measure(
        self, document: Document, sizes: Sizes, cut: CutChoice, excerpt: Excerpt = COMPLETE
    ) -> tuple[int, int]:
        """Count a sample's text tokens (placeholders included) and tiles, without its pixels."""
        return SampleMeter(self, document, sizes).measure(cut, excerpt)

    def places(
        self, document: Document, sizes: Sizes, cut: CutChoice, max_frames: int | None = None
    ) -> list[Shown]:
        """How each place of a document's text shows its media, in order.

        `max_frames` lowers the encoder's own limit.
        """
        parts = document.places
        limits = [limit for limit in (self.max_frames, max_frames) if limit is not None]
        return [
            self.reading.show(
                document.media[part.media],
                part,
                sizes,
                cut,
                alone=len(parts) == 1,
                max_frames=min(limits, default=None),
            )
            for part in parts
        ]

    def write(
        self,
        document: Document,
        sizes: Sizes,
        cut: CutChoice,
        excerpt: Excerpt,
        encode: Callable[[str], list[int]] | None = None,
    ) -> tuple[list[Shown], TokenRow]:
        """How an excerpt of a document shows its media, and its tokens.

        The complete document decides how: a picture is not cut only because the others that it
        came with were left out. `encode` replaces the tokenizer's own.
        """
        places = self.places(document, sizes, cut, excerpt.frames)
        left, kept = excerpt_document(document, excerpt)
        places = places[kept]
        pieces = render_sample(self._readable(left), places, self.reading)
        return places, self._row(pieces, encode or self.tokenizer.encode)

    def _readable(self, document: Document) -> Document:
        if self.literals == LiteralPolicy.reject:
            return document
        return escape_literals(document, self.reading.literals)

    def _row(self, pieces: Iterable[Piece], encode: Callable[[str], list[int]]) -> TokenRow:
        row = TokenRow()
        for piece in join_text(pieces):
            if isinstance(piece, Text):
                for text in piece.text.split(BREAK):
                    row.add(encode(text), piece.weight)
            elif isinstance(piece, Control):
                row.add([self.tokenizer.control_id(piece.literal)], piece.weight)
            else:
                row.media_offset.append(len(row.tokens))
                row.tiles.append(piece)
                row.add(self.reading.placeholder(self.tokenizer, piece), CONTEXT)
        return row

    def _finish(
        self, raw: RawSample, key: str, source: str, row: TokenRow, places: Sequence[Shown]
    ) -> EncodedSample:
        tiles = torch.cat([self.reading.no_pixels(), *self._pixels(raw, places)])
        if len(tiles) != len(row.media_offset):
            raise DataError(
                "E405",
                f"{len(row.media_offset)} placeholders but {len(tiles)} tiles.",
                shard=raw.shard,
                key=raw.key,
            )
        return self._sample(key, source, row, tiles)

    def _pixels(self, raw: RawSample, places: Sequence[Shown]) -> Iterator[Tensor]:
        for shown in places:
            files = [raw.files[file] for file in shown.files]
            yield self.reading.pixels(files, shown, self.images)

    def _sample(self, key: str, source: str, row: TokenRow, tiles: Tensor) -> EncodedSample:
        return EncodedSample(
            key=key,
            source=source,
            # By way of numpy: torch.tensor takes four times as long to read a list.
            tokens=torch.from_numpy(np.array(row.tokens, np.int64)),
            loss_weights=torch.from_numpy(np.array(row.loss_weights, np.float32)),
            positions=self.reading.positions(row.tokens, row.media_offset, row.tiles),
            tiles=tiles,
            media_offset=row.media_offset,
        )


class SampleMeter:
    """Counts one sample in several ways: no text is tokenised twice for that.

    Args:
        encoder: as which it counts.
        document: of the sample.
        sizes: of its pictures.
    """

    def __init__(self, encoder: SampleEncoder, document: Document, sizes: Sizes) -> None:
        self._encoder, self._document, self._sizes = encoder, document, sizes
        self._encode = lru_cache(maxsize=None)(encoder.tokenizer.encode)
        self.token_ends = encoder.tokenizer.token_ends

    def measure(self, cut: CutChoice, excerpt: Excerpt = COMPLETE) -> tuple[int, int]:
        """Count text tokens (placeholders included) and tiles, without pixels."""
        _, row = self._encoder.write(self._document, self._sizes, cut, excerpt, self._encode)
        return len(row.tokens), len(row.media_offset)


def _sizes(raw: RawSample) -> Sizes:
    """Sizes of a sample's pictures; read from their headers where they are not known yet. Frames
    are never cut, so theirs are not needed.
    """
    pictures = [media for media in raw.document.media if isinstance(media, ImageMedia)]
    return raw.sizes or {media.file: picture_size(raw.files[media.file]) for media in pictures}
