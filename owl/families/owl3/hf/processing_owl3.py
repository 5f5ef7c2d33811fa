# SPDX-License-Identifier: Apache-2.0
"""The processor of mPLUG-Owl3: published grids and markup around OwlProcessor's encoding."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.processing_utils import MultiModalData

from owl.families.owl3.hf.configuration_owl3 import Owl3Config
from owl.families.owl3.hf.template_owl3 import CHAT, CHAT_TEMPLATE
from owl.families.owl3.hf.vision_owl3 import normalise
from owl.families.owl3.markup_owl3 import TEMPLATES
from owl.families.owl3.tiles_owl3 import PUBLISHED_GRIDS, Grid, choose_grid, make_tiles
from owl.portable.options_owl import (
    CALL_OPTIONS,
    CallOptions,
    OwlProcessorKwargs,
    read_options,
)
from owl.portable.pictures_owl import load_frames, load_picture
from owl.portable.pieces_owl import Piece, Tile
from owl.portable.pixels_owl import RESIZES
from owl.portable.processing_owl import OwlProcessor, Row
from owl.portable.requests_owl import RequestError
from owl.portable.tensor_names_owl import HUB_OPTIONS
from owl.portable.tokenizer_owl import load_hf_tokenizer

Owl3ProcessorKwargs = OwlProcessorKwargs
"""Under the name that transformers derives from the class."""


class Owl3Processor(OwlProcessor):
    """Encodes requests for one model; see CallOptions for the options of a call.

    Args:
        tokenizer: Qwen2's, or any with its three control tokens.
        image_size: side of a tile in pixels, s.
        template: v2 (240728) or v3 (241014, 241101).
        parity: whose pixels the tiles equal, bit for bit: torch (training's, within 2 levels of
            Pillow's) or pillow (the published processor's, slower).
        chat_template: Jinja for apply_chat_template; the published format by default.
    """

    chat = CHAT
    settings = ("image_size", "template", "parity")
    default_template = CHAT_TEMPLATE

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

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> "Owl3Processor":
        """Load the tokenizer of a folder; tile size and template come from its config.json.

        Args:
            pretrained_model_name_or_path: a published folder, or an exported or saved one.
            **kwargs: image_size, template, parity, chat_template; the rest goes to the tokenizer.
        """
        folder = pretrained_model_name_or_path
        given: dict[str, Any] = {
            name: kwargs.pop(name) for name in (*cls.settings, "chat_template") if name in kwargs
        }
        # trust_remote_code stays: AutoTokenizer reads config.json, and would ask about its code.
        kwargs.pop("_from_auto", None)
        for name in CALL_OPTIONS:
            if name in kwargs and not name.startswith("padding"):  # a tokenizer's own
                raise RequestError(f"{name} is an option of each call, not of from_pretrained.")
        settings = cls.saved_settings(folder) | given
        hub = {name: value for name, value in kwargs.items() if name in HUB_OPTIONS}
        settings.setdefault("chat_template", cls.saved_template(folder, **hub))
        if not {"image_size", "template"} <= set(settings):
            settings = cls.settings_of(Owl3Config.from_pretrained(folder, **hub)) | settings
        return cls(load_hf_tokenizer(folder, **kwargs), **settings)

    @classmethod
    def settings_of(cls, config: Owl3Config) -> dict[str, Any]:
        """Return tile size and template of a model."""
        return {"image_size": config.vision_config.image_size, "template": config.template}

    def write_picture(self, source: Any, options: CallOptions, row: Row) -> Iterator[Piece]:
        """Show a picture as one tile, or cut into the published grid closest to its shape."""
        picture = load_picture(source)
        grid = self._grid(*picture.size, options)
        row.tiles.append(self._tiles(picture, grid))
        yield from self._markup(grid)

    def _grid(self, width: int, height: int, options: CallOptions) -> Grid | None:
        grids = grids_within(options.max_tiles) if options.cut_enable else []
        return choose_grid(width, height, self.image_size, grids) if grids else None

    def _markup(self, grid: Grid | None) -> Iterable[Piece]:
        return TEMPLATES[self.template].cut_picture(grid) if grid else [Tile()]

    def _get_num_multimodal_tokens(
        self, image_sizes: Sequence[tuple[int, int]] | None = None, **options: Any
    ) -> MultiModalData:
        """Count what pictures of given heights and widths become, as vLLM asks for it.

        Returns:
            num_image_tokens, those that a picture's markup and placeholders take in the text, and
            num_image_patches, its tiles.
        """
        chosen, rows = read_options(options, known=()), []
        for height, width in image_sizes or ():
            rows.append(Row())
            self.write_pieces(self._markup(self._grid(width, height, chosen)), rows[-1])
        return MultiModalData(
            num_image_tokens=[len(row.tokens) for row in rows],
            num_image_patches=[len(row.media_offset) for row in rows],
        )

    def write_video(self, source: Any, options: CallOptions, row: Row) -> Iterator[Piece]:
        """Show each frame of a video as one tile."""
        frames = load_frames(source, options.max_frames, options.fps)
        row.tiles += [self._tiles(frame) for frame in frames]
        yield from TEMPLATES[self.template].clip(len(frames))

    def _tiles(self, picture: Image.Image, grid: Grid | None = None) -> Tensor:
        return make_tiles(np.array(picture), self.image_size, grid, RESIZES[self.parity])

    def normalise(self, tiles: Tensor) -> Tensor:
        """Map [m, 3, s, s] uint8 to float32 with mean 0.5 and deviation 0.5 per channel."""
        return normalise(tiles, torch.float32)


def grids_within(max_tiles: int | None) -> list[Grid]:
    """Select the published grids of at most `max_tiles` tiles, the global view included."""
    return [grid for grid in PUBLISHED_GRIDS if max_tiles is None or grid.tiles <= max_tiles]
