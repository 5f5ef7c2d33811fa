# SPDX-License-Identifier: Apache-2.0
"""What a preview shows: plain values taken from the batch, without HTML."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from PIL import Image
from torch import Tensor

from owl.data.encode.tokenizer import Tokenizer
from owl.data.families import Reading
from owl.data.samples import IGNORE_INDEX, PackedBatch
from owl.portable.pieces_owl import Tile

THUMBNAIL_PIXELS = 112
THUMBNAIL_QUALITY = 82


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenView:
    """One row of the pack."""

    row: int
    position: int  # within its sample
    id: int
    text: str
    label: int | None  # the id that it predicts; None where nothing is learned
    label_text: str
    weight: float  # of that label
    is_learned: bool  # it is itself the label of the token before it
    is_control: bool
    placeholder: int | None  # tile, numbered within the sample, whose placeholder it is part of
    sees: int  # tiles of its sample, which are always the first so many


@dataclass(frozen=True, slots=True, kw_only=True)
class TileView:
    """One tile, as the tower gets it."""

    number: int  # within its sample
    offset: int  # of its placeholder's first token
    position: int  # first token that sees it
    picture: str  # a data: URL of a small copy


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleView:
    """One sample of the pack."""

    number: int
    key: str
    source: str
    tokens: Sequence[TokenView]
    tiles: Sequence[TileView]

    @property
    def learned(self) -> int:
        """Number of tokens that are learned."""
        return sum(token.label is not None for token in self.tokens)

    @property
    def weight(self) -> float:
        """Its part of the loss's denominator."""
        return sum(token.weight for token in self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankView:
    """Predicted work of one rank in this step, in text tokens."""

    rank: int
    packs: Sequence[float]  # work of each of its packs

    @property
    def work(self) -> float:
        """Predicted work of all its packs."""
        return sum(self.packs)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageView:
    """Everything on the page."""

    title: str
    facts: Sequence[tuple[str, str]]  # label, value
    text_tokens: int
    tiles: int
    text_budget: int
    tile_budget: int
    samples: Sequence[SampleView]
    num_samples: int  # of the batch; more than `samples` when not all are shown
    work: Mapping[str, float]  # part -> operations
    ranks: Sequence[RankView] = field(default_factory=list)
    rank: int = 0
    tile_cost: float = 0.0


def sample_views(
    batch: PackedBatch,
    tokenizer: Tokenizer,
    reading: Reading,
    sources: Sequence[str],
    *,
    position_shift: int,
    show: int,
) -> Iterator[SampleView]:
    """Yield the samples of a batch, one by one.

    Args:
        batch: with its pixels as uint8.
        tokenizer: of the run.
        reading: of the run's model.
        sources: name of each sample's source, or empty if unknown.
        position_shift: a tile is seen from its offset plus this on (`model.enters`).
        show: samples to yield.
    """
    span = len(reading.placeholder(tokenizer, Tile()))
    starts, media = batch.cu_seqlens.tolist(), batch.cu_media.tolist()
    for number in range(min(show, batch.num_samples)):
        rows = range(starts[number], starts[number + 1])
        tiles = range(media[number], media[number + 1])
        places = [offset + position_shift for offset in batch.media_offset[number]]
        yield SampleView(
            number=number,
            key=batch.keys[number],
            source=sources[number] if sources else "",
            tokens=list(
                _token_views(batch, tokenizer, span, rows, batch.media_offset[number], places)
            ),
            tiles=[
                TileView(
                    number=place,
                    offset=batch.media_offset[number][place],
                    position=places[place],
                    picture=thumbnail(batch.pixel_values[tile]),
                )
                for place, tile in enumerate(tiles)
            ],
        )


def _token_views(
    batch: PackedBatch,
    tokenizer: Tokenizer,
    span: int,
    rows: range,
    offsets: Sequence[int],
    places: Sequence[int],
) -> Iterator[TokenView]:
    holders = {offset + i: tile for tile, offset in enumerate(offsets) for i in range(span)}
    controls = set(tokenizer.control_ids.values())
    columns = (batch.tokens, batch.labels, batch.loss_weights, batch.position_ids)
    lists = [column[rows.start : rows.stop].tolist() for column in columns]
    texts = token_texts(lists[0], tokenizer)
    learned_before = False
    for index, (token, label, weight, position) in enumerate(zip(*lists, strict=True)):
        has_label = label != IGNORE_INDEX
        yield TokenView(
            row=rows.start + index,
            position=position,
            id=token,
            text=texts[index],
            label=label if has_label else None,
            label_text=_label_text(label, lists[0], texts, index, tokenizer) if has_label else "",
            weight=weight,
            is_learned=learned_before,
            is_control=token in controls,
            placeholder=holders.get(position),
            sees=sum(place <= position for place in places),
        )
        learned_before = has_label


def token_texts(tokens: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """Return the text of each token in its context; control tokens by their names.

    A token is decoded together with the one before it: some tokenizers omit the space before the
    first word, and a character may be split over two tokens.
    """
    controls = {token: literal for literal, token in tokenizer.control_ids.items()}

    @cache
    def text(before: int | None, token: int) -> str:
        if token in controls:
            return controls[token]
        alone = tokenizer.decode([token])
        if before is None or before in controls:
            return alone
        first, both = tokenizer.decode([before]), tokenizer.decode([before, token])
        return both[len(first) :] if both.startswith(first) else alone

    return [text(before, token) for before, token in zip((None, *tokens), tokens, strict=False)]


def _label_text(
    label: int, tokens: Sequence[int], texts: Sequence[str], index: int, tokenizer: Tokenizer
) -> str:
    """Text of the label, which usually is the next token."""
    if index + 1 < len(tokens) and tokens[index + 1] == label:
        return texts[index + 1]
    return tokenizer.decode([label])


def thumbnail(tile: Tensor) -> str:
    """Return a small JPEG of a tile as a data: URL.

    Args:
        tile: [3, s, s] uint8.
    """
    image = Image.fromarray(tile.permute(1, 2, 0).contiguous().numpy())
    if image.width > THUMBNAIL_PIXELS:
        side = THUMBNAIL_PIXELS
        image = image.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=THUMBNAIL_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
