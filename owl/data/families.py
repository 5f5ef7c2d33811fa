# SPDX-License-Identifier: Apache-2.0
"""What the data path needs of a model family, and where each family provides it.

The functions that open data (`open_run`, prepare, lint) choose a Reading once and pass it on.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from owl.config.run import FamilyKind, ImageLibrary, ModelConfig, Trainable
from owl.data.encode.tokenizer import Tokenizer
from owl.data.samples import PackedBatch
from owl.data.shards.document import Media, MediaPart
from owl.data.shown import CutChoice, Shown, Sizes
from owl.families.owl1 import work as owl1_work
from owl.families.owl1.reading import Owl1Reading
from owl.families.owl2 import work as owl2_work
from owl.families.owl2.reading import Owl2Reading
from owl.families.owl3 import work as owl3_work
from owl.families.owl3.reading import Owl3Reading
from owl.portable.pieces_owl import Piece, RenderedTurn, Tile


class Reading(Protocol):
    """How a family reads a sample: its template, its placeholders, its pixels and its positions.

    Letters: t tokens and m tiles of one sample, s the side of a tile. Implementations are
    immutable, hashable and can be pickled.
    """

    @property
    def settings(self) -> Mapping[str, str]:
        """Model settings on which tokens and tiles depend, by name.

        They are part of fingerprints, and their values name cached lengths. A new family adds
        `model.family`, so that its values never name another family's lengths.
        """
        ...

    @property
    def controls(self) -> Sequence[str]:
        """Literals that the tokenizer must have as control tokens; the last one ends a text."""
        ...

    @property
    def literals(self) -> Sequence[str]:
        """Literals that a sample's text may contain only when they are escaped."""
        ...

    @property
    def published_cut_share(self) -> float:
        """Share of single pictures that are cut under data.cut=published, 0 to 1."""
        ...

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Raise DataError E404 for a tokenizer that cannot write the placeholders."""
        ...

    def show(
        self,
        media: Media,
        part: MediaPart,
        sizes: Sizes,
        cut: CutChoice,
        *,
        alone: bool,
        max_frames: int | None,
    ) -> Shown:
        """Decide how one place shows its media: as one tile, as a grid, or as frames.

        Args:
            media: the entry that is shown.
            part: the content part that shows it; it may select frames.
            sizes: of the sample's pictures.
            cut: which pictures are cut.
            alone: whether this is the sample's only place with media.
            max_frames: that a clip shows at most; None for all.
        """
        ...

    def write(self, shown: Any) -> Iterator[Piece]:
        """Yield the pieces of one place: `shown.tiles` Tile pieces and what is around them."""
        ...

    def turns(self, turns: Sequence[RenderedTurn[Piece]]) -> Iterator[Piece]:
        """Yield a conversation from the very beginning of the text, each turn closed.

        A document comes as one turn whose role is "document".
        """
        ...

    def answer(self) -> Iterator[Piece]:
        """Yield what opens the assistant's answer after `turns`."""
        ...

    def end(self, weight: float) -> Iterator[Piece]:
        """Yield what ends a sample in training, with this loss weight."""
        ...

    def placeholder(self, tokenizer: Tokenizer, tile: Tile) -> Sequence[int]:
        """Ids that hold the place of one tile; their number may depend on the tile."""
        ...

    def pixels(self, files: Sequence[bytes], shown: Any, library: ImageLibrary) -> Tensor:
        """Decode and resize what one place shows.

        Args:
            files: content of `shown.files`.
            shown: how; m is `shown.tiles`.
            library: that decodes and resizes.

        Returns:
            [m, 3, s, s] uint8; the vision tower normalises them on the device.

        Raises:
            DataError: E307..E310, a picture cannot be used.
        """
        ...

    def no_pixels(self) -> Tensor:
        """Pixels of a sample without media: [0, 3, s, s] uint8."""
        ...

    def positions(
        self, tokens: Sequence[int], offsets: Sequence[int], tiles: Sequence[Tile]
    ) -> Tensor:
        """Rotary positions of one sample, from 0.

        Args:
            tokens: t ids.
            offsets: m indexes, of the first placeholder token of each tile.
            tiles: m pieces, as `write` yielded them.

        Returns:
            [t] int64, or [3, t] for time, height and width.
        """
        ...


class Work(Protocol):
    """How much a family computes."""

    def batch_flops(
        self, batch: PackedBatch, model: ModelConfig, trainable: Trainable
    ) -> Mapping[str, int]:
        """Operations of one micro-batch, forward and backward: part -> count."""
        ...

    def tile_cost(self, model: ModelConfig, trainable: Trainable) -> float:
        """Text tokens that are as much work as one tile."""
        ...


READINGS: Mapping[FamilyKind, Callable[[ModelConfig], Reading]] = {
    FamilyKind.owl3: Owl3Reading.of_model,
    FamilyKind.owl2: Owl2Reading.of_model,
    FamilyKind.owl1: Owl1Reading.of_model,
}
WORK: Mapping[FamilyKind, Work] = {
    FamilyKind.owl3: owl3_work,
    FamilyKind.owl2: owl2_work,
    FamilyKind.owl1: owl1_work,
}


def reading_of(model: ModelConfig) -> Reading:
    """Make the reading of a model's family."""
    return READINGS[model.family](model)
