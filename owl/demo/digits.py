# SPDX-License-Identifier: Apache-2.0
"""The demo's pictures: scikit-learn's 1,797 handwritten digits, in a training and a held-out part.

Each digit is 8 x 8 with ink from 0 to 16. It is enlarged to the side of a tile, 56 pixels, so that
a patch of the tower covers 2 x 2 of the scanned points. Digits 1437 to 1796 are by writers who are
not in the training part; they are never trained on.
"""

import io
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

IMAGE_SIZE = 56
"""Side of a picture in pixels: seven per scanned point."""
TRAINING = range(0, 1437)
HELD_OUT = range(1437, 1797)
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    """Pictures with their labels. Row i is digit `indices[i]` of scikit-learn's set."""

    indices: NDArray[np.int64]  # [n]
    pictures: NDArray[np.uint8]  # [n, 56, 56], white ink on black
    labels: NDArray[np.int64]  # [n] 0..9

    def __len__(self) -> int:
        return len(self.indices)


def load_digits(part: range) -> Digits:
    """Read one part of the set, TRAINING or HELD_OUT, enlarged to the side of a tile."""
    # Imported here: scikit-learn belongs to the `demo` extra, and takes a second to import.
    from sklearn.datasets import load_digits as load_scanned_digits

    scanned = load_scanned_digits()
    rows = slice(part.start, part.stop)
    return Digits(
        indices=np.arange(part.start, part.stop),
        pictures=np.stack([enlarge(digit) for digit in scanned.images[rows]]),
        labels=scanned.target[rows].astype(np.int64),
    )


def enlarge(ink: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Turn [8, 8] ink from 0 to 16 into a [56, 56] picture from 0 to 255."""
    scanned = Image.fromarray((ink * (255 / 16)).round().astype(np.uint8))
    return np.asarray(scanned.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))


def distort(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Shift, rotate, stretch and shade each picture a little, to imitate other handwritings.

    1,437 digits are few: a tower that sees each in one position only memorises them.

    Args:
        pictures: [n, s, s] of any number format, 0 to 255.
        generator: of the random numbers.

    Returns:
        [n, s, s] float32, 0 to 255.
    """
    count = len(pictures)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    angle, shear = uniform(-0.25, 0.25), uniform(-0.2, 0.2)  # radians; share of the height
    wide, high = uniform(0.85, 1.15), uniform(0.85, 1.15)
    cos, sin = angle.cos(), angle.sin()
    rows = [wide * cos, shear - sin, uniform(-0.2, 0.2), sin, high * cos, uniform(-0.15, 0.15)]
    affine = torch.stack(rows, dim=1).view(count, 2, 3)
    planes = pictures.float()[:, None]
    grid = functional.affine_grid(affine, list(planes.shape), align_corners=False)
    moved = functional.grid_sample(planes, grid, align_corners=False)[:, 0]
    return (moved * uniform(0.75, 1.15)[:, None, None]).clamp(0, 255)


def normalise(pictures: Tensor) -> Tensor:
    """Turn [n, s, s] grey pictures, 0 to 255, into the [n, 3, s, s] the tower reads, -1 to 1."""
    return (pictures.float() / 127.5 - 1)[:, None].expand(-1, 3, -1, -1)


def png_bytes(picture: NDArray[np.uint8]) -> bytes:
    """Encode a [56, 56] grey picture as a PNG file with three channels, as photographs have."""
    buffer = io.BytesIO()
    Image.fromarray(picture).convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()
