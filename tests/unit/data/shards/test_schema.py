# SPDX-License-Identifier: Apache-2.0
import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from owl.data.shards.document import TextPart, Turn, parse_document, parse_json
from owl.data.shards.rules import validate
from owl.errors import DataError
from tests.unit.data.shard_factory import chat


def codes(document, files=("m0000.jpg",)):
    return [problem.code for problem in validate(document, files)[1]]


def changed(**changes):
    return copy.deepcopy(chat(pictures=1)) | changes


def with_text(text):
    return codes(chat(text), ())


def test_a_plain_chat_breaks_no_rule():
    assert codes(chat(pictures=1)) == []


def test_a_document_with_pictures_between_its_texts_breaks_no_rule():
    document = {
        "schema": "owl3-sample/1",
        "id": "d",
        "kind": "document",
        "media": [{"type": "frames", "files": ["a.jpg", "b.jpg"], "t": [0.0, 1.5]}],
        "turns": [
            {
                "role": "document",
                "content": [{"text": "x"}, {"media": 0, "frames": [1, 2]}, {"text": "y"}],
            }
        ],
        "meta": {"raw": {"anything": [1]}},
    }
    assert codes(document, ("a.jpg", "b.jpg")) == []


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (changed(schema="owl3-sample/2"), "E202"),
        (changed(kind="story"), "E203"),
        (changed(surplus=1), "E203"),
        (changed(turns="none"), "E203"),
        (changed(turns=[{"role": "user", "content": [{"text": 3}]}]), "E203"),
        (changed(media=[{"type": "sound", "file": "m0000.jpg"}]), "E203"),
        (changed(media=[{"type": "image", "file": "m0000.jpg", "cut": "maybe"}]), "E203"),
        (changed(turns=[]), "E204"),
        (changed(turns=[{"role": "user", "content": [{"media": 0}]}]), "E205"),
        (changed(turns=[{"role": "document", "content": [{"media": 0}, {"text": "x"}]}]), "E205"),
        (changed(media=[]), "E301"),
        (changed(media=[{"type": "image", "file": "other.jpg"}]), "E302"),
        (changed(media=[{"type": "image", "file": "other.jpg"}]), "E303"),
        (changed(media=[{"type": "image", "file": "m0000.jpg"}] * 2), "E304"),
        (changed(media=[{"type": "frames", "files": []}]), "E312"),
        (changed(media=[{"type": "frames", "files": ["m0000.jpg"], "t": [1.0, 2.0]}]), "E312"),
        (changed(media=[{"type": "video", "file": "m0000.jpg"}]), "E313"),
    ],
)
def test_each_broken_rule_has_its_code(document, code):
    assert code in codes(document)


@pytest.mark.parametrize(
    "literal",
    ["<|image|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|end_cut|>", "<image>"],
)
def test_text_that_looks_like_markup_is_refused(literal):
    assert with_text(f"see {literal} here") == ["E206"]


def test_markup_split_over_two_parts_is_refused_too():
    document = chat()
    document["turns"][0]["content"] = [{"text": "<|im"}, {"text": "age|>"}]
    assert codes(document, ()) == ["E206"]


def test_nul_and_half_a_surrogate_pair_are_refused():
    assert with_text("a\x00b") == ["E208"]
    assert with_text("a\ud800b") == ["E208"]


def test_a_sample_that_teaches_nothing_is_refused():
    document = chat()
    document["turns"][1]["loss"] = False
    assert codes(document, ()) == ["E204"]


def test_weights_must_be_finite_and_neither_negative_nor_huge():
    for weight in (-1.0, float("inf"), float("nan"), 10**400):
        document = chat()
        document["turns"][1]["weight"] = weight
        assert "E207" in codes(document, ())


def test_a_part_overrides_its_turn_and_a_turn_its_role():
    plain = TextPart("x")
    assert Turn("user", [plain]).weight_of(plain) == 0.0
    assert Turn("user", [plain], loss=True).weight_of(plain) == 1.0
    half = Turn("assistant", [plain], weight=0.5)
    assert half.weight_of(plain) == half.end_weight == 0.5
    assert half.weight_of(TextPart("x", weight=2.0)) == 2.0
    assert Turn("assistant", []).weight_of(TextPart("x", loss=False, weight=2.0)) == 0.0


def test_bytes_that_are_no_json_object_are_refused():
    for data in (b"\xff{}", b"{", b"[1]"):
        with pytest.raises(DataError, match="E201"):
            parse_json(data)


def test_a_document_of_the_wrong_shape_is_an_error_and_not_half_read():
    for broken in (changed(turns="none"), changed(media=[3]), changed(turns=[{"role": "user"}])):
        with pytest.raises(DataError, match="E203"):
            parse_document(json.dumps(broken).encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(value):
    """Yield every (container, key) of a json value."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_json_gives_problems_and_never_an_exception(data):
    document = chat(pictures=2, w=20, h=12, cut="on", alt="x")
    document["media"].append({"type": "frames", "files": ["f.jpg"], "t": [0.5]})
    document["turns"][0]["content"].append({"media": 2, "frames": [0, 1]})
    document["turns"][1]["content"][0] |= {"loss": True, "weight": 0.5}
    files = ("m0000.jpg", "m0001.jpg", "f.jpg")
    assert codes(document, files) == []
    container, key = data.draw(st.sampled_from(list(places(document))))
    container[key] = data.draw(JSON | st.just(10**400))
    typed, problems = validate(document, files)
    assert all(problem.code.startswith(("E2", "E3")) for problem in problems)
    assert typed is not None or problems
