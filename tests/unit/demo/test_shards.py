# SPDX-License-Identifier: Apache-2.0
import io
from random import Random

import pytest
from PIL import Image

from owl.config.run import FamilyKind
from owl.data.shards.dataset import Dataset
from owl.demo import shards
from owl.demo.digits import HELD_OUT, TRAINING, WORDS, load_digits
from owl.demo.samples import Kind
from owl.demo.shards import STAGES, Album, StageData, draw_samples, write_stage
from owl.demo.text import save_tokenizer
from tests.unit.demo.pictures import grey_digits

ALL_KINDS = StageData(samples=40, mixture=dict.fromkeys(Kind, 1.0))


@pytest.fixture
def album(monkeypatch):
    # Undistorted, the grey value of a file tells which row it was made of.
    monkeypatch.setattr(shards, "distort", lambda pictures, generator: pictures.float())
    return Album(grey_digits([row % 10 for row in range(50)]), seed=0)


def row_of(file):
    return Image.open(io.BytesIO(file)).getpixel((0, 0))[0]


def test_every_picture_of_a_sample_shows_what_its_answers_say(album):
    for _, document, files in draw_samples(ALL_KINDS, album, Random(0)):
        shown = [WORDS[row_of(file) % 10] for file in files.values()]
        written = " ".join(
            part["text"] for turn in document["turns"] for part in turn["content"] if "text" in part
        )
        assert all(word in written for word in shown)


def test_the_same_seed_draws_the_same_samples(album):
    first, again = (list(draw_samples(ALL_KINDS, album, Random(3))) for _ in range(2))
    assert first == again


def test_written_shards_open_as_a_data_set_and_hold_every_sample(album, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SAMPLES_PER_SHARD", 16)
    monkeypatch.setattr(shards, "STAGES", {"stage1": ALL_KINDS})
    save_tokenizer(tmp_path / "tokenizer")
    write_stage(tmp_path / "out", "stage1", album, tmp_path / "tokenizer")
    dataset = Dataset.open(tmp_path / "out")
    assert len(dataset) == 40
    assert len(dataset.records) == 3
    assert not dataset.errors


def test_stage1_shows_one_picture_at_a_time_and_stage2_several():
    assert Kind.several not in STAGES["stage1"].mixture
    assert {Kind.single, Kind.several, Kind.finding} <= STAGES["stage2"].mixture.keys()


def test_the_shards_are_made_of_training_digits_only(monkeypatch, tmp_path):
    from owl.demo import prepare

    seen = []
    monkeypatch.setattr("owl.demo.shards.Album", lambda digits, seed: seen.append(digits))
    monkeypatch.setattr("owl.demo.shards.write_stage", lambda folder, **options: folder.mkdir())
    prepare._make_shards(tmp_path, FamilyKind.owl3)
    (digits,) = seen
    assert digits.indices.tolist() == list(TRAINING)
    assert not set(digits.indices.tolist()) & set(load_digits(HELD_OUT).indices.tolist())


def test_samples_in_words_have_no_pictures(album):
    data = StageData(samples=8, mixture={Kind.several: 1.0}, in_words=True)
    for _, document, files in draw_samples(data, album, Random(0)):
        assert not files
        assert not document["media"]
        assert document["turns"][0]["content"][0]["text"].startswith("<|")
