# SPDX-License-Identifier: Apache-2.0
from itertools import islice
from random import Random

import pytest
import torch

from owl.config.run import FamilyKind
from owl.data.shown import CutChoice
from owl.demo.families import tiny_model
from owl.demo.samples import Kind, make_dialogue
from owl.demo.shards import picture_sample
from owl.demo.text import (
    VOCABULARY,
    build_tokenizer,
    draw_text,
    encode_text,
    in_words,
    open_encoder,
    save_tokenizer,
    text_encoders,
    vocabulary,
)
from owl.portable.pieces_owl import Tile
from tests.unit.demo.pictures import plain_png

UNKNOWN = VOCABULARY.index("<unk>")


@pytest.fixture
def encoder(tmp_path):
    save_tokenizer(tmp_path)
    return open_encoder(tmp_path)


@pytest.mark.parametrize("family", FamilyKind)
def test_the_vocabulary_is_as_large_as_the_tiny_model_expects(family):
    words = vocabulary(family)
    assert len(words) == len(set(words)) == tiny_model(family).vocab_size
    assert len(words) % 2 == 1


@pytest.mark.parametrize("family", FamilyKind)
def test_a_familys_text_is_within_its_vocabulary_in_every_template(tmp_path, family):
    save_tokenizer(tmp_path, family)
    encoders = text_encoders(tmp_path, family)
    for sample in islice(draw_text(encoders, Random(0)), 100):
        assert vocabulary(family).index("<unk>") not in sample.tokens


def test_text_alone_has_words_in_the_place_of_pictures():
    dialogue = in_words(make_dialogue(Kind.single, (7,), Random(0)))
    first, *_ = dialogue.turns[0]["content"]
    assert first == {"text": "<|seven|>", "loss": False}


@pytest.mark.parametrize(
    "text",
    [
        "What is the second digit?",
        "This is an eight.",
        "The digits are seven, two, one.",
        "the seven is first, the two is second.",
        "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n<|image|>What is this digit?<|im_end|>",
    ],
)
def test_text_survives_the_tokenizer(text):
    tokenizer = build_tokenizer()
    ids = tokenizer.encode(text).ids
    assert UNKNOWN not in ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_a_placeholder_is_five_plain_tokens_as_with_the_published_tokenizer(encoder):
    words = [VOCABULARY[token] for token in encoder.reading.placeholder(encoder.tokenizer, Tile())]
    assert words == ["<", "|", "image", "|", ">"]


def test_all_text_is_within_the_vocabulary(encoder):
    drawn = list(islice(draw_text([encoder], Random(0)), 300))
    assert not any(UNKNOWN in sample.tokens for sample in drawn)


def test_no_digit_is_named_where_pictures_are_blank(encoder):
    dialogue = make_dialogue(Kind.several, (3, 5), Random(0))
    blank = encode_text(encoder, dialogue, blank=True)
    prompt = encoder.tokenizer.decode(blank.tokens.tolist()).split("?")[0]
    assert prompt.count("<|image|>") == 2
    assert "three" not in prompt
    assert "five" not in prompt


@pytest.mark.parametrize("kind", [Kind.single, Kind.finding, Kind.captions])
def test_blank_text_reads_exactly_as_a_sample_with_pictures(encoder, kind):
    # What the language model learns first must be, token for token, what it will meet later.
    labels = (3,) if kind is Kind.single else (3, 5)
    dialogue = make_dialogue(kind, labels, Random(0))
    text = encode_text(encoder, dialogue, blank=True)
    sample = picture_sample("k", dialogue, [plain_png()] * len(labels))
    seen = encoder.encode(sample, source="demo", cut=CutChoice.none)
    torch.testing.assert_close(text.tokens, seen.tokens)
    torch.testing.assert_close(text.loss_weights, seen.loss_weights)
    assert len(seen.tiles) == len(labels)


def test_named_pictures_are_read_but_not_learned(encoder):
    sample = encode_text(encoder, make_dialogue(Kind.captions, (3,), Random(0)), blank=False)
    words = [VOCABULARY[token] for token in sample.tokens]
    assert words[:5] == ["<", "|", "three", "|", ">"]
    assert sample.loss_weights[:5].sum() == 0
    assert sample.loss_weights[5:].min() == 1
