# SPDX-License-Identifier: Apache-2.0
import io

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile

from owl.portable.picture_reader_owl import (
    FORMATS,
    MAX_PIXELS,
    SUFFIXES,
    PictureError,
    open_picture,
    picture_suffix,
    shown_size,
    upright_rgb,
)
from tests.unit.portable.picture_carriers import (
    CARRIERS,
    HEIGHT,
    UNTURNED,
    WIDTH,
    bitmap_with_empty_alpha,
    chunk,
    exif_of,
    jpeg,
    large_notes,
    png,
    saved,
    stored_picture,
    upright_picture,
    xmp_of,
)


def read(data: bytes) -> np.ndarray:
    with open_picture(data) as image:
        size = shown_size(image)
    with open_picture(data) as image:
        pixels = upright_rgb(image)
    assert pixels.size == size  # what the header promises
    return np.asarray(pixels)


def assert_upright(pixels: np.ndarray) -> None:
    expected = np.asarray(upright_picture()).astype(int)
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).mean() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("carrier", CARRIERS)
def test_an_orientation_is_found_wherever_it_is_and_undone_once(carrier, orientation):
    data = CARRIERS[carrier](orientation)
    pixels = read(data)
    assert_upright(pixels)
    # A picture that somebody else opened, and perhaps loaded or turned, gives the same.
    opened = Image.open(io.BytesIO(data))
    assert np.array_equal(upright_rgb(opened), pixels)
    assert np.array_equal(upright_rgb(opened), pixels)
    if carrier not in ("JPEG xmp of exiftool", "PNG raw APP1", "PNG raw xmp"):  # Pillow's limits
        turned = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        assert np.array_equal(upright_rgb(turned), pixels)


def test_exif_comes_before_xmp():
    both = (1, b"http://ns.adobe.com/xap/1.0/\x00" + xmp_of(3)), (1, exif_of(6))
    assert_upright(read(jpeg(6, *both)))


def test_xmp_in_utf16_is_read():
    note = '<x tiff:Orientation="6"/>'.encode("utf-16")
    assert_upright(read(jpeg(6, (1, b"http://ns.adobe.com/xap/1.0/\x00" + note))))


@pytest.mark.parametrize("value", [0, 9, 77])
def test_an_unknown_orientation_changes_nothing(value):
    assert_upright(read(jpeg(1, (1, exif_of(value)))))


@pytest.mark.parametrize(
    "note",
    [
        (b"eXIf", b"MM\x00*\xff\xff\xff\xff"),
        (b"zTXt", b"Raw profile type exif\x00\x00not packed"),
        (b"tEXt", b"Raw profile type APP1\x00\nAPP1\n 3\nno digits"),
        (b"iTXt", b"XML:com.adobe.xmp\x00\x01\x00\x00\x00not packed"),
        (b"iCCP", b"profile"),
    ],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_note_does_not_cost_the_picture(note):
    assert_upright(read(png(1, note)))


def test_the_size_of_a_png_needs_no_pixels(monkeypatch):
    monkeypatch.setattr(PngImageFile, "load", lambda image: pytest.fail("pixels were decoded"))
    for name, make in CARRIERS.items():
        if name.startswith("PNG"):
            assert shown_size(open_picture(make(6))) == (WIDTH, HEIGHT)
    assert shown_size(open_picture(png(1))) == (WIDTH, HEIGHT)


def test_a_note_with_a_wrong_checksum_does_not_cost_the_picture():
    note = chunk(b"tEXt", b"Comment\x00hello")
    data = png(1, (b"tEXt", b"Comment\x00hello"))
    assert_upright(read(data.replace(note, note[:-1] + b"\x00")))


def test_large_texts_and_profiles_of_a_png_are_read_over():
    data = png(6, *large_notes(), (b"eXIf", exif_of(6)[6:]))
    with pytest.raises(ValueError, match="too large"):
        Image.open(io.BytesIO(data))
    assert_upright(read(data))


def test_empty_alpha_of_a_bitmap_is_none_and_used_alpha_is_kept():
    data = bitmap_with_empty_alpha(upright_picture())
    assert Image.open(io.BytesIO(data)).mode == "RGBA"
    assert np.array_equal(read(data), np.asarray(upright_picture()))
    one_seen = data[:-1] + b"\xff"
    assert (read(one_seen) == 255).mean() > 0.99
    assert np.array_equal(upright_rgb(Image.open(io.BytesIO(data))), read(data))


def test_a_transparent_png_is_white():
    assert (read(saved(Image.new("RGBA", (8, 8), (9, 9, 9, 0)), "PNG")) == 255).all()


@pytest.mark.parametrize("name", [*UNTURNED, *CARRIERS])
def test_a_suffix_is_that_of_the_bytes(name):
    data = CARRIERS[name](3) if name in CARRIERS else UNTURNED[name]()
    assert picture_suffix(data) == SUFFIXES[name.split()[0].upper()][0]


def test_a_photo_that_holds_several_is_a_jpeg():
    photo = stored_picture(1)
    data = saved(photo, "MPO", save_all=True, append_images=[photo])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert picture_suffix(data) == "jpg"
    assert_upright(read(data))


def test_of_an_animated_png_the_first_frame_is_taken():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    data = saved(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert read(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("codec", ["EPS", "ICNS", "PPM", "TGA", "JPEG2000", "PDF"])
def test_formats_that_are_not_accepted_are_not_opened(codec):
    with pytest.raises(PictureError, match="none of JPEG, PNG") as raised:
        open_picture(saved(upright_picture(), codec))
    assert raised.value.code == "E307"


def test_every_format_has_a_suffix():
    assert set(FORMATS) <= set(SUFFIXES)


def test_a_picture_with_too_many_pixels_is_refused_before_it_is_decoded():
    side = int(MAX_PIXELS**0.5) + 1
    image = open_picture(saved(Image.new("1", (side, side)), "PNG"))
    for look in (shown_size, upright_rgb):
        with pytest.raises(PictureError, match="pixels") as raised:
            look(image)
        assert raised.value.code == "E309"


def test_a_float_picture_is_refused():
    with pytest.raises(PictureError, match="mode F") as raised:
        upright_rgb(Image.new("F", (WIDTH, HEIGHT)))
    assert raised.value.code == "E310"
