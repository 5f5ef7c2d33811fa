# SPDX-License-Identifier: Apache-2.0
"""The processor of models that show a picture as one square, in the place of its placeholders."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from owl.portable.options_owl import CALL_OPTIONS, CallOptions
from owl.portable.pictures_owl import load_frames, load_picture
from owl.portable.pieces_owl import Piece, Tile
from owl.portable.pixels_owl import FITS, RESIZES, Fit
from owl.portable.processing_owl import OwlProcessor, Row
from owl.portable.requests_owl import RequestError
from owl.portable.spliced.clip_tower_owl import normalise_clip
from owl.portable.tensor_names_owl import HUB_OPTIONS
from owl.portable.tokenizer_owl import control_ids, load_hf_tokenizer


class OwlSquareProcessor(OwlProcessor):
    """Encodes requests for one model; see CallOptions for the options of a call.

    Args:
        tokenizer: LLaMA's, or any with its control tokens.
        image_size: side of a square in pixels, s.
        tokens_per_picture: placeholder tokens of a picture, k.
        fit: how a picture becomes square: pad, stretch or crop.
        parity: whose pixels the squares equal, bit for bit: torch (training's, within 2 levels of
            Pillow's) or pillow (the published processor's, slower).
        chat_template: Jinja for apply_chat_template; the published format by default.
    """

    settings: ClassVar[tuple[str, ...]] = ("image_size", "tokens_per_picture", "fit", "parity")
    controls: ClassVar[tuple[str, ...]] = ("<s>", "</s>")
    fits: ClassVar[Mapping[str, Fit]] = FITS
    config_class: ClassVar[Any]

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        image_size: int,
        tokens_per_picture: int,
        fit: str,
        parity: str,
        chat_template: str,
    ) -> None:
        for name, value, known in (("fit", fit, self.fits), ("parity", parity, RESIZES)):
            if value not in known:
                raise ValueError(f"{name}={value!r} must be one of {', '.join(known)}.")
        self.image_size, self.tokens_per_picture = image_size, tokens_per_picture
        self.fit, self.parity = fit, parity
        super().__init__(tokenizer, chat_template=chat_template)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Any:
        """Load the tokenizer of a folder; the settings come from its config.json.

        Args:
            pretrained_model_name_or_path: a published folder, or an exported or saved one.
            **kwargs: image_size, fit and the like, chat_template; the rest goes to the tokenizer.
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
        if "template" not in given:
            settings.setdefault("chat_template", cls.saved_template(folder, **hub))
        if not {"image_size", "tokens_per_picture", "fit"} <= set(settings):
            settings = cls.settings_of(cls.config_class.from_pretrained(folder, **hub)) | settings
        return cls(load_hf_tokenizer(folder, **kwargs), **settings)

    @classmethod
    def settings_of(cls, config: Any) -> dict[str, Any]:
        """Return the settings that follow from a model's config."""
        return {
            "image_size": config.tower.image_size,
            "tokens_per_picture": config.keys_per_picture,
            "fit": config.fit,
        }

    def find_controls(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
        """Look up LLaMA's control tokens."""
        return control_ids(tokenizer, self.controls)

    def find_placeholder(self) -> list[int]:
        """Hold the place of a picture's vectors: which ids does not matter."""
        return [0] * self.tokens_per_picture

    def write_picture(self, source: Any, options: CallOptions, row: Row) -> Iterator[Piece]:
        """Show a picture as one square."""
        row.tiles.append(self._square(load_picture(source)))
        yield Tile()

    def write_video(self, source: Any, options: CallOptions, row: Row) -> Iterator[Piece]:
        """Show each frame of a video as one square."""
        frames = load_frames(source, options.max_frames, options.fps)
        row.tiles += [self._square(frame) for frame in frames]
        yield from self.write_clip(len(frames))

    def write_clip(self, frames: int) -> Iterator[Piece]:
        """Write the pieces of a video of so many frames."""
        yield from [Tile()] * frames

    def _square(self, picture: Image.Image) -> Tensor:
        fit = self.fits[self.fit]
        return fit(np.array(picture), self.image_size, RESIZES[self.parity])[None]

    def normalise(self, tiles: Tensor) -> Tensor:
        """Map [m, 3, s, s] uint8 to float32 with CLIP's mean and deviation."""
        return normalise_clip(tiles, torch.float32)

    def _pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return 0 if pad is None else int(pad)
