# SPDX-License-Identifier: Apache-2.0
import io

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from owl.config.run import ImageLibrary
from owl.curate.prepare import prepare_folder
from owl.data.encode.encoder import SampleEncoder
from owl.data.encode.images import decode_picture, picture_size
from owl.data.encode.tokenizer import load_tokenizer
from owl.data.shards.dataset import Dataset
from owl.data.shown import CutChoice
from owl.errors import DataError
from owl.families.owl3.reading import Owl3Reading, read_tiles
from owl.families.owl3.tiles_owl3 import Grid, choose_grid, make_tiles
from tests.unit.data.shard_factory import chat, files_of, picture, write_shard, write_tokenizer
from tests.unit.portable.picture_carriers import HEIGHT, JPEGS, WIDTH


@pytest.mark.parametrize(
    ("width", "height", "rows", "columns"),
    [
        (500, 500, 2, 2),
        (640, 480, 2, 3),
        (480, 640, 3, 2),
        (1920, 1080, 2, 3),
        (1000, 800, 2, 3),
        (2000, 500, 1, 4),
        (3000, 400, 1, 4),
        (400, 3000, 4, 1),
        (100, 100, 2, 2),
    ],
)
@pytest.mark.parametrize("image_size", [378, 384])
def test_grids_are_those_of_the_published_code(width, height, rows, columns, image_size):
    assert choose_grid(width, height, image_size) == Grid(rows, columns)


def test_a_cut_picture_gives_its_cells_row_by_row_and_then_the_whole():
    # A picture already 2 x 3 tiles large: cutting it needs no resizing.
    pixels = np.random.default_rng(0).integers(0, 256, (2 * 8, 3 * 8, 3), dtype=np.uint8)
    tiles = make_tiles(pixels, 8, Grid(2, 3))
    assert tiles.shape == (7, 3, 8, 8)
    assert tiles.dtype == torch.uint8
    assert torch.equal(tiles[4].permute(1, 2, 0), torch.from_numpy(pixels[8:, 8:16]))
    assert torch.equal(tiles[6:], make_tiles(pixels, 8, None))


def test_resizing_is_within_one_or_two_levels_of_pillow():
    pixels = decode_picture(picture(200, 150, codec="PNG"))
    ours = make_tiles(pixels, 64, None)[0].permute(1, 2, 0).numpy()
    theirs = np.asarray(Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC))
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 2


@pytest.mark.parametrize("codec", ["JPEG", "PNG"])
@pytest.mark.parametrize("grid", [None, Grid(2, 3)])
def test_pillow_alone_gives_the_bits_of_pillow(codec, grid):
    data = picture(1024, 756, codec=codec)  # of a size at which torch differs
    image = Image.open(io.BytesIO(data)).convert("RGB")

    def resized(width, height):
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1)

    tiles = read_tiles(data, 378, grid, ImageLibrary.pillow)
    assert torch.equal(tiles[-1], resized(378, 378))
    if grid:
        large = resized(3 * 378, 2 * 378)
        cells = [large[:, r : r + 378, c : c + 378] for r in (0, 378) for c in (0, 378, 756)]
        assert torch.equal(tiles[:-1], torch.stack(cells))
    assert not torch.equal(tiles, read_tiles(data, 378, grid))


def test_pillow_alone_checks_a_picture_as_the_others_do():
    with pytest.raises(DataError, match="E309"):
        read_tiles(picture(3, 40), 16, None, ImageLibrary.pillow)
    with pytest.raises(DataError, match="E308"):
        read_tiles(picture(64, 64)[:-200], 16, None, ImageLibrary.pillow)


def test_jpeg_decodes_to_the_same_pixels_as_pillow():
    data = picture(64, 48)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(decode_picture(data), expected)


@pytest.mark.parametrize(
    ("codec", "mode"),
    [
        ("JPEG", "L"),
        ("JPEG", "CMYK"),
        ("PNG", "RGBA"),
        ("PNG", "P"),
        ("PNG", "LA"),
        ("PNG", "1"),
        ("WEBP", "RGB"),
        ("GIF", "P"),
    ],
)
def test_every_usual_mode_becomes_rgb(codec, mode):
    pixels = decode_picture(picture(20, 12, codec=codec, mode=mode))
    assert pixels.shape == (12, 20, 3)
    assert pixels.dtype == np.uint8


def test_transparent_pixels_become_white():
    stream = io.BytesIO()
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(stream, "PNG")
    assert (decode_picture(stream.getvalue()) == 255).all()


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8), 0x8000, np.uint16)).save(stream, "PNG")
    assert (decode_picture(stream.getvalue()) == 0x80).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_undone_as_pillow_does(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = picture(20, 12, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(decode_picture(data), np.asarray(expected))
    assert picture_size(data) == expected.size


@pytest.mark.parametrize("codec", ["JPEG", "PNG"])
def test_exif_orientation_is_applied_to_size_and_pixels(codec):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    data = picture(20, 12, codec=codec, exif=exif)
    assert picture_size(data) == (12, 20)
    assert decode_picture(data).shape == (20, 12, 3)


@pytest.mark.parametrize(("orientation", "fast"), [(1, 1), (6, 0)])
@pytest.mark.parametrize("carrier", JPEGS)
def test_only_a_turned_jpeg_leaves_the_fast_road(monkeypatch, carrier, orientation, fast):
    data = JPEGS[carrier](orientation)
    calls, decode = [], simplejpeg.decode_jpeg
    monkeypatch.setattr(
        simplejpeg, "decode_jpeg", lambda *a, **k: calls.append(1) or decode(*a, **k)
    )
    assert decode_picture(data).shape == (HEIGHT, WIDTH, 3)
    assert picture_size(data) == (WIDTH, HEIGHT)
    assert len(calls) == fast


def test_an_animation_gives_its_first_frame():
    stream = io.BytesIO()
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    first.save(stream, "GIF", save_all=True, append_images=[second])
    assert decode_picture(stream.getvalue())[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("codec", ["JPEG", "PNG"])
def test_a_truncated_picture_is_an_error_and_not_half_grey(codec):
    data = picture(400, 400, codec=codec)
    assert picture_size(data[: len(data) // 2]) == (400, 400)
    with pytest.raises(DataError, match="E308"):
        decode_picture(data[: len(data) // 2])


def test_stray_bytes_in_a_jpeg_are_read_over_as_pillow_does():
    data = picture(64, 48)
    blemished = data[:-2] + b"\x00\x12\x34" + data[-2:]  # before the end marker
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(blemished)
    assert np.array_equal(decode_picture(blemished), decode_picture(data))


def test_bytes_that_are_no_picture_are_named():
    with pytest.raises(DataError, match="E307"):
        picture_size(b"<html>not found</html>")
    with pytest.raises(DataError, match="E308"):
        picture_size(b"\xff\xd8\xff\xe0 broken")


@pytest.mark.parametrize(("width", "height"), [(3, 3), (16385, 90), (1000, 4)])
def test_sizes_that_no_picture_has_are_refused(width, height):
    stream = io.BytesIO()
    Image.new("1", (width, height)).save(stream, "PNG")
    with pytest.raises(DataError, match="E309"):
        picture_size(stream.getvalue())


def test_float_pictures_are_refused_before_they_are_decoded():
    stream = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.float32)).save(stream, "TIFF")
    with pytest.raises(DataError, match="E310"):
        picture_size(stream.getvalue())


@pytest.mark.parametrize("codec", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks on broken TIFF tags
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_bytes_give_a_picture_or_a_code_and_nothing_else(codec, data):
    exif = {} if codec in ("GIF", "BMP") else {"exif": ORIENTED}
    content = bytearray(picture(40, 30, codec=codec, **exif))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        size = picture_size(content)
        assert decode_picture(content).shape == (size[1], size[0], 3)
    except DataError as error:
        assert error.code in ("E307", "E308", "E309", "E310")  # noqa: PT017


ORIENTED = Image.Exif()
ORIENTED[0x0112] = 6


@pytest.mark.parametrize("codec", ["JPEG", "PNG"])
def test_a_picture_of_a_shard_has_its_header_read_once(tmp_path, monkeypatch, codec):
    document = chat(pictures=1)
    write_shard(tmp_path / "a/s.tar", [("k", document, files_of(document, codec=codec))])
    assert prepare_folder(tmp_path / "a") == []
    raw = Dataset.open(tmp_path / "a").read(0)
    headers = []
    for module, name in ((simplejpeg, "decode_jpeg_header"), (Image, "open")):
        read = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, read=read, **k: headers.append(1) or read(*a, **k)
        )
    encoder = SampleEncoder(load_tokenizer(write_tokenizer(tmp_path)), Owl3Reading("v2", 16))
    assert encoder.encode(raw, source="a", cut=CutChoice.single).num_tiles > 1
    assert len(headers) == 1
