# SPDX-License-Identifier: Apache-2.0
"""What other models of transformers have as processor.image_processor and video_processor."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature


class OwlMediaProcessor:
    """Encodes pictures, or videos, as tiles without a text around them.

    Args:
        encode: a picture or video, and the options of a call, to its tiles [m, 3, s, s] float32.
    """

    def __init__(self, encode: Callable[[Any, dict[str, Any]], Tensor]) -> None:
        self._encode = encode
        self.model_input_names = ["pixel_values"]

    def __call__(self, media: Any, **options: Any) -> BatchFeature:
        """Encode one picture or video, or a list of them; a video is no plain list of frames here.

        Args:
            media: for what one may be, see pictures_owl; lists may be nested, as of a batch.
            **options: of CallOptions.

        Returns:
            pixel_values [m, 3, s, s] float32 of all tiles; num_tiles, those of each medium.
        """
        tiles = [self._encode(one, options) for one in _each(media)]
        return BatchFeature(
            {"pixel_values": torch.cat(tiles), "num_tiles": [len(part) for part in tiles]}
        )

    preprocess = __call__


def _each(media: Any) -> Iterator[Any]:
    if isinstance(media, list | tuple):
        for one in media:
            yield from _each(one)
    else:
        yield media
