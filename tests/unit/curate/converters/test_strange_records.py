# SPDX-License-Identifier: Apache-2.0
"""Records no one thought of: they come back whole, or they are rejected; nothing else happens."""

import copy
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from owl.curate.converters.formats.registry import FAMILIES
from owl.curate.converters.pictures import PictureStore, SourceFolder
from owl.curate.converters.records import ConvertOptions, SourceRecord, finish_draft, open_sample
from owl.data.shards.schema import check_document
from owl.errors import DataError
from tests.unit.curate.converters.converting import convert_lines, write_pictures
from tests.unit.curate.converters.formats.test_llava import RECORDS
from tests.unit.curate.converters.formats.test_registry import JSONL, M4, MMC4, OBELICS, clip
from tests.unit.data.shard_factory import picture

STORED = {"bytes": picture(), "path": None}
SEEDS = [
    *(("llava", record) for record in RECORDS),
    ("m4", M4),
    ("obelics", OBELICS),
    ("mmc4", MMC4),
    ("sharegpt4video", clip(video="v")),
    ("sharegpt4video", {"video_id": "v", "captions": [{"idx": "-1", "content": "An owl."}]}),
    *(("jsonl", record) for record in JSONL),
    ("parquet", {"images": [STORED], "texts": [{"user": "?", "assistant": "!"}]}),
    ("parquet", {"images": [STORED, None], "texts": [None, "An owl."]}),
]
REJECTED = {"E203", "E204", "E205", "E208", "E302", "E305", "E307", "E312", "E313"}
VALUES = [None, True, 0, -1, 10**9, 1.5, "", "a.jpg", "<image>", "<video>", "\0", [], {}, [[]]]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    write_pictures(folder, "a.jpg", "b.jpg", "c.jpg", "a/1.jpg", "v/1.jpg")
    return PictureStore(SourceFolder(folder), ConvertOptions(escape=True))


def round_trip(family, value, store):
    """Convert one record as a shard would hold it, and give it back."""
    record = SourceRecord("in.jsonl", 1, value)
    draft = FAMILIES[family].to_draft(record, store)
    sample = finish_draft(draft, record, "k", family=family, options=store.options)
    check_document(sample.document, sample.files.keys(), shard="s", key="k")
    return FAMILIES[family].to_source(open_sample(sample.document, sample.files))


def outcome(family, value, store):
    """What a record comes back as, or the code for which it is rejected."""
    try:
        return round_trip(family, value, store)
    except DataError as error:
        return error.code


def change_something(value, draw):
    """Replace, drop or double one place of a record."""
    places = list(places_of(value))
    container, key = draw.choice(places)
    act = draw.randrange(3)
    if act == 0:
        container[key] = copy.deepcopy(draw.choice(VALUES))
    elif act == 1:
        del container[key]
    elif isinstance(container, list):
        container.insert(key, copy.deepcopy(container[key]))
    else:
        container["extra"] = copy.deepcopy(container[key])


def places_of(value):
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in inner:
        yield value, key
        if isinstance(child, dict | list):
            yield from places_of(child)


@pytest.mark.parametrize("seed", range(len(SEEDS)))
def test_a_changed_record_comes_back_or_is_rejected(seed, store):
    family, record = SEEDS[seed]
    draw, kept = random.Random(seed), 0
    for _ in range(150):
        changed = copy.deepcopy(record)
        change_something(changed, draw)
        came_back = outcome(family, changed, store)
        assert came_back == changed or came_back in REJECTED
        kept += came_back == changed
    assert kept > 0


PIECES = ["<image>", "<", "image>", " ", "\n", "a", "\u00e9", "<|im_end|>", "<video>"]
TEXTS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join)


@settings(max_examples=150, deadline=None)
@given(said=st.lists(TEXTS, min_size=2, max_size=4).filter(lambda said: len(said) % 2 == 0))
def test_any_text_with_any_marks_comes_back(said, store):
    speakers = ["human", "gpt", "human", "gpt"]
    turns = [{"from": who, "value": text} for who, text in zip(speakers, said, strict=False)]
    marks = sum(text.count("<image>") for text in said)
    record = {"id": "1", "image": ["a.jpg"] * marks, "conversations": turns}
    # E204: an answer of pictures alone teaches nothing.
    assert outcome("llava", record, store) in (record, "E204")


def test_leftovers_nested_too_deep_are_rejected(tmp_path):
    nested = []
    for _ in range(100):
        nested = [nested]
    reject = convert_lines(tmp_path, "jsonl", {"text": "An owl.", "tree": nested}).reject
    assert (reject["code"], "deep, over 64" in reject["message"]) == ("E203", True)
