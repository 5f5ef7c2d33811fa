# SPDX-License-Identifier: Apache-2.0
"""Unforeseen records are converted without a loss or rejected; nothing else happens."""

import copy
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from owl.curate.converters.formats.registry import FORMATS
from owl.curate.converters.pictures import PictureStore, SourceFolder
from owl.curate.converters.records import (
    ConvertOptions,
    SourceRecord,
    escape_text,
    finish_draft,
)
from owl.data.shards.rules import validate
from owl.errors import DataError
from tests.unit.curate.converters.converting import (
    assert_nothing_lost,
    convert_lines,
    write_pictures,
)
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


def convert(name, value, store):
    """Convert one record as a shard would hold it: its document, or the code of its reject."""
    record = SourceRecord("in.jsonl", 1, value)
    try:
        draft = FORMATS[name].to_draft(record, store)
        sample = finish_draft(draft, record, "k", source=name, escape=store.options.escape)
        for problem in validate(sample.document, sample.files.keys())[1]:
            return None, problem.code
    except DataError as error:
        return None, error.code
    assert_nothing_lost(value, sample.document)
    return sample.document, None


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
def test_a_changed_record_is_converted_without_loss_or_rejected(seed, store):
    name, record = SEEDS[seed]
    draw, kept = random.Random(seed), 0
    for _ in range(150):
        changed = copy.deepcopy(record)
        change_something(changed, draw)
        document, code = convert(name, changed, store)
        assert document or code in REJECTED
        kept += document is not None
    assert kept > 0


PIECES = ["<image>", "<", "image>", " ", "\n", "a", "\u00e9", "<|im_end|>", "<video>"]
TEXTS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join)


@settings(max_examples=150, deadline=None)
@given(said=st.lists(TEXTS, min_size=2, max_size=4).filter(lambda said: len(said) % 2 == 0))
def test_any_text_with_any_marks_is_kept(said, store):
    speakers = ["human", "gpt", "human", "gpt"]
    turns = [{"from": who, "value": text} for who, text in zip(speakers, said, strict=False)]
    marks = sum(text.count("<image>") for text in said)
    record = {"id": "1", "image": ["a.jpg"] * marks, "conversations": turns}
    document, code = convert("llava", record, store)
    if not document:
        assert code == "E204"  # an answer of pictures alone teaches nothing
        return
    contents = [turn["content"] for turn in document["turns"]]
    written = ["".join(part.get("text", "<image>") for part in content) for content in contents]
    assert written == ["<image>".join(map(escape_text, text.split("<image>"))) for text in said]


def test_leftovers_nested_too_deep_are_rejected(tmp_path):
    nested = []
    for _ in range(100):
        nested = [nested]
    reject = convert_lines(tmp_path, "jsonl", {"text": "An owl.", "tree": nested}).reject
    assert (reject["code"], "deep, over 64" in reject["message"]) == ("E203", True)
