# SPDX-License-Identifier: Apache-2.0
"""Pictures to square tiles as mPLUG-Owl2's code makes them.

Training and owl.hf share this module, and a copy of it travels with exported folders.
"""

from torch import Tensor

from owl.portable.pixels_owl import FITS as SHARED_FITS
from owl.portable.pixels_owl import Fit, Pixels, Resize


def stretch_twice(pixels: Pixels, side: int, resize: Resize) -> Tensor:
    """Stretch to a square of the longer side first, and resize that, as published."""
    longer = max(pixels.shape[:2])
    square = resize(pixels, longer, longer).permute(1, 2, 0).numpy()
    return resize(square, side, side)


FITS: dict[str, Fit] = {**SHARED_FITS, "stretch": stretch_twice}
"""owl.config.choices.PictureFit -> how a picture becomes square."""
