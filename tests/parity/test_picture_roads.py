# SPDX-License-Identifier: Apache-2.0
"""A picture is the same by every road: training, converted for training, and asking owl.hf."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from owl.config.run import ImageLibrary
from owl.data.encode.images import decode_picture, picture_size
from owl.families.owl3.reading import read_tiles
from owl.families.owl3.tiles_owl3 import PUBLISHED_GRIDS, choose_grid
from owl.hf import Owl3Processor
from owl.portable.pictures_owl import load_picture
from owl.portable.tokenizer_owl import load_hf_tokenizer
from tests.unit.curate.converters.converting import convert_lines
from tests.unit.data.shard_factory import write_tokenizer
from tests.unit.portable.picture_carriers import CARRIERS, UNTURNED, upright_picture

SIZE = 56
QUESTION = [{"role": "user", "content": "<|image|>?"}, {"role": "assistant", "content": ""}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every format and carrier, turned in every way, as a user's folder of pictures."""
    root = tmp_path_factory.mktemp("roads")
    images = root / "images"
    images.mkdir()
    for name, make in CARRIERS.items():
        for orientation in range(1, 9):
            (images / f"{name} {orientation}").write_bytes(make(orientation))
    for name, make in UNTURNED.items():
        (images / name).write_bytes(make())
    return root


@pytest.fixture(scope="module")
def pictures(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "images").iterdir())}


@pytest.fixture(scope="module")
def converted(folder, pictures):
    """The same pictures out of prepared shards, by name."""
    records = [{"images": [name], "text": f"<image>{name}"} for name in pictures]
    result = convert_lines(folder, "jsonl", *records, decode=True)
    assert result.rejects == []
    stored = {}
    for sample in result.samples:
        (media,) = sample.document["media"]
        stored[media["uri"]] = (sample.files[media["file"]], (media["w"], media["h"]))
    return stored


@pytest.fixture(scope="module")
def processors(tmp_path_factory):
    tokenizer = load_hf_tokenizer(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))
    return {
        library: Owl3Processor(tokenizer, image_size=SIZE, parity=parity)
        for library, parity in ((ImageLibrary.fast, "torch"), (ImageLibrary.pillow, "pillow"))
    }


def test_every_picture_passes_conversion_with_its_bytes(pictures, converted):
    assert len(pictures) == 8 * len(CARRIERS) + len(UNTURNED)
    assert {name: data for name, (data, _) in converted.items()} == pictures
    for name, (data, size) in converted.items():
        assert size == picture_size(data) == upright_picture().size, name


@pytest.mark.parametrize("library", [ImageLibrary.fast, ImageLibrary.pillow])
def test_every_road_gives_the_same_tiles(folder, pictures, converted, processors, library):
    for name, data in pictures.items():
        grid = choose_grid(*picture_size(data), SIZE, PUBLISHED_GRIDS)
        trained = read_tiles(converted[name][0], SIZE, grid, library)
        assert torch.equal(trained, read_tiles(data, SIZE, grid, library))
        sources = {
            "path": folder / "images" / name,
            "bytes": data,
            "array": np.asarray(load_picture(data)),
        }
        if name != "PNG large notes":  # Pillow itself does not open it
            sources["opened"] = Image.open(io.BytesIO(data))
        for road, source in sources.items():
            asked = processors[library](QUESTION, images=[source], cut_enable=True)["pixel_values"]
            assert_alike(trained, (asked * 0.5 + 0.5) * 255, library, f"{name}, {road}")


def assert_alike(trained, asked, library, where):
    difference = (trained.float() - asked).abs().round()
    if library == ImageLibrary.pillow:
        assert difference.max() == 0, where
    else:
        assert (difference > 2).float().mean() < 0.005, where


def test_both_libraries_decode_alike(pictures):
    for name, data in pictures.items():
        fast, pillow = (decode_picture(data, library) for library in ImageLibrary)
        assert fast.shape == pillow.shape, name
        assert (np.abs(fast.astype(int) - pillow) > 2).mean() < 0.005, name
        assert np.array_equal(pillow, load_picture(data)), name
