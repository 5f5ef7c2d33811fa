# SPDX-License-Identifier: Apache-2.0
import io

import numpy as np
import pytest
import torch
from PIL import Image

from owl.demo.digits import (
    HELD_OUT,
    IMAGE_SIZE,
    TRAINING,
    distort,
    load_digits,
    normalise,
    png_bytes,
)


@pytest.fixture(scope="module")
def held_out():
    return load_digits(HELD_OUT)


def test_no_digit_is_both_trained_on_and_held_out():
    assert not set(TRAINING) & set(HELD_OUT)
    assert sorted([*TRAINING, *HELD_OUT]) == list(range(1797))


def test_each_part_holds_the_pictures_that_its_indices_name(held_out):
    from sklearn.datasets import load_digits as load_scanned_digits

    scanned = load_scanned_digits()
    assert held_out.indices.tolist() == list(range(1437, 1797))
    assert held_out.labels.tolist() == scanned.target[1437:].tolist()
    # The middle of each 7 x 7 pixels is the scanned point itself.
    ink = (scanned.images[1437:] * 255 / 16).round()
    np.testing.assert_array_equal(held_out.pictures[:, 3::7, 3::7], ink)


def test_no_held_out_picture_equals_a_training_picture(held_out):
    trained = {picture.tobytes() for picture in load_digits(TRAINING).pictures}
    assert not trained & {picture.tobytes() for picture in held_out.pictures}


def test_a_png_gives_the_picture_back(held_out):
    decoded = Image.open(io.BytesIO(png_bytes(held_out.pictures[3])))
    assert decoded.size == (IMAGE_SIZE, IMAGE_SIZE)
    assert decoded.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(decoded)[..., 1], held_out.pictures[3])


def test_distortion_depends_on_the_generator_alone(held_out):
    pictures = torch.from_numpy(held_out.pictures[:4])
    first, again = (distort(pictures, torch.Generator().manual_seed(1)) for _ in range(2))
    other = distort(pictures, torch.Generator().manual_seed(2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first, other)
    assert first.min() >= 0
    assert first.max() <= 255


def test_normalised_pixels_run_from_minus_one_to_one():
    pixels = normalise(torch.tensor([[[0, 255]]], dtype=torch.uint8))
    torch.testing.assert_close(pixels, torch.tensor([-1.0, 1.0]).expand(1, 3, 1, 2))
