# SPDX-License-Identifier: Apache-2.0
"""Pictures become squares as transformers' CLIP processor and the published code make them."""

import numpy as np
import pytest
from PIL import Image

from owl.families.owl2.tiles_owl2 import FITS as OWL2_FITS
from owl.portable.pixels_owl import CLIP_MEAN, FITS, resize_with_pillow, resize_with_torch

SIDE = 28
SIZES = [(91, 40), (40, 91), (13, 11), (64, 64), (29, 300)]


def photo(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR)


def clip_processor(image: Image.Image) -> np.ndarray:
    """Resize the shorter side and keep the middle, with transformers' own functions."""
    transforms = pytest.importorskip("transformers.image_transforms")
    array = np.array(image)
    size = transforms.get_resize_output_image_size(array, SIDE, default_to_square=False)
    array = transforms.resize(array, size, resample=Image.Resampling.BICUBIC)
    return transforms.center_crop(array, (SIDE, SIDE))


def published_pad(image: Image.Image) -> np.ndarray:
    longer = max(image.size)
    square = Image.new("RGB", (longer, longer), CLIP_MEAN)
    square.paste(image, ((longer - image.width) // 2, (longer - image.height) // 2))
    return clip_processor(square)


def published_stretch(image: Image.Image) -> np.ndarray:
    longer = max(image.size)
    return clip_processor(image.resize((longer, longer)))


PUBLISHED = {"pad": published_pad, "stretch": published_stretch, "crop": clip_processor}


@pytest.mark.parametrize("fit", PUBLISHED)
@pytest.mark.parametrize("size", SIZES)
def test_pillow_gives_the_published_tiles_and_torch_nearly(fit, size):
    image = photo(*size)
    expected = PUBLISHED[fit](image)
    exact = OWL2_FITS[fit](np.array(image), SIDE, resize_with_pillow)
    fast = OWL2_FITS[fit](np.array(image), SIDE, resize_with_torch)
    assert exact.shape == fast.shape == (3, SIDE, SIDE)
    np.testing.assert_array_equal(exact.permute(1, 2, 0).numpy(), expected)
    off = (fast.short() - exact.short()).abs()
    assert off.max() <= 2
    assert (off > 1).float().mean() <= 0.005


def test_stretching_at_once_is_one_resampling():
    image = photo(91, 40)
    tile = FITS["stretch"](np.array(image), SIDE, resize_with_pillow)
    expected = np.array(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(tile.permute(1, 2, 0).numpy(), expected)
