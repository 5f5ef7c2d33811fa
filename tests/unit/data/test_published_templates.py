# SPDX-License-Identifier: Apache-2.0
"""Tokens, labels and media offsets of the three published versions, with Qwen2's own tokenizer.

What is expected is written as text, and read by transformers' Qwen2 tokenizer piece by piece, as
the published processors do: control tokens and placeholders stand alone, [ ] holds what is learned.
"""

import re
from functools import cache

import pytest

from owl.data.collate import collate
from owl.data.encode.encoder import SampleEncoder
from owl.data.encode.tokenizer import load_tokenizer
from owl.data.samples import RawSample
from owl.data.shards.document import Document
from owl.data.shown import CutChoice
from owl.families.owl3.reading import Owl3Reading
from tests.unit.data.shard_factory import QWEN2, chat, picture

VERSIONS = {
    "7B-240728": ("v2", 384),
    "2B-241014": ("v3", 384),
    "7B-241101": ("v3", 378),
}
"""Template, side of a tile."""
CONTROLS = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}
IMAGE = [27, 91, 1805, 91, 29]

EMPTY_SYSTEM = "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n"
ANSWER = "<|im_end|>\n<|im_start|>assistant\n[An owl.<|im_end|><|endoftext|>]"
CUT_2X3 = {
    "v2": (
        "Cut to 2 rows 3 columns with a global view\n"
        "subimg(0,0)<|image|> subimg(0,1)<|image|> subimg(0,2)<|image|>\n"
        "subimg(1,0)<|image|> subimg(1,1)<|image|> subimg(1,2)<|image|>\n"
        "global_view<|image|>"
    ),
    "v3": (
        "<|start_cut|>2*3\n<|image|> <|image|> <|image|>\n<|image|> <|image|> <|image|>\n"
        "<|image|><|end_cut|>"
    ),
}
FOUR_FRAMES = {
    "v2": "<|image|><|image|><|image|><|image|>",
    "v3": ("<|start_video_frame|><|image|><|image|><|image|><|image|><|end_video_frame|>"),
}


@cache
def published_tokenizer():
    transformers = pytest.importorskip("transformers")
    return transformers.Qwen2TokenizerFast(
        vocab=str(QWEN2 / "vocab.json"), merges=str(QWEN2 / "merges.txt")
    )


def expected(text):
    """Ids, what is learned, and where placeholders begin."""
    ids, learned, offsets, learning = [], [], [], False
    for piece in re.split(r"(<\|im_start\|>|<\|im_end\|>|<\|endoftext\|>|<\|image\|>|\[|\])", text):
        if piece in ("[", "]"):
            learning = piece == "["
            continue
        if piece == "<|image|>":
            offsets.append(len(ids))
            new = IMAGE
        elif piece in CONTROLS:
            new = [CONTROLS[piece]]
        else:
            new = published_tokenizer().encode(piece, add_special_tokens=False)
        ids += new
        learned += [float(learning)] * len(new)
    return ids, learned, offsets


@cache
def encoder(version):
    template, image_size = VERSIONS[version]
    return SampleEncoder(load_tokenizer(QWEN2), Owl3Reading(template, image_size))


def raw(document, **options):
    files = {
        file: picture(seed=number, **options)
        for number, media in enumerate(document["media"])
        for file in media.get("files", [media.get("file")])
    }
    return RawSample(key="k", shard="s.tar", document=Document.from_json(document), files=files)


def agrees(version, document, text, cut=CutChoice.none, **options):
    sample = encoder(version).encode(raw(document, **options), source="a", cut=cut)
    ids, learned, offsets = expected(text)
    assert sample.tokens.tolist() == ids
    assert sample.loss_weights.tolist() == learned
    assert sample.media_offset == offsets
    side = VERSIONS[version][1]
    assert sample.tiles.shape == (len(offsets), 3, side, side)
    return sample


def asked(*content, media=()):
    document = chat()
    document["media"] = list(media)
    document["turns"][0]["content"] = list(content)
    return document


@pytest.mark.parametrize("version", VERSIONS)
def test_a_single_picture(version):
    document = chat("What is it?", pictures=1)
    sample = agrees(version, document, f"{EMPTY_SYSTEM}<|image|>What is it?{ANSWER}")
    assert sample.media_offset == [8]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_cut_picture(version):
    template, _ = VERSIONS[version]
    text = f"{EMPTY_SYSTEM}{CUT_2X3[template]}What is it?{ANSWER}"
    document = chat("What is it?", pictures=1)
    sample = agrees(version, document, text, CutChoice.single, width=640, height=480)
    if template == "v3":  # recorded from a run of the published 7B-241101
        assert sample.media_offset == [18, 24, 30, 36, 42, 48, 54]


@pytest.mark.parametrize("version", VERSIONS)
def test_several_pictures_among_text(version):
    media = [{"type": "image", "file": f"m{i}.jpg"} for i in range(3)]
    content = [{"text": "Left: "}, {"media": 0}, {"text": "\nright: "}, {"media": 1}, {"media": 2}]
    text = f"{EMPTY_SYSTEM}Left: <|image|>\nright: <|image|><|image|>{ANSWER}"
    agrees(version, asked(*content, media=media), text, CutChoice.single)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_frames_of_a_video(version):
    template, _ = VERSIONS[version]
    media = [{"type": "frames", "files": [f"f{i}.jpg" for i in range(4)]}]
    document = asked({"media": 0}, {"text": "What happens?"}, media=media)
    text = f"{EMPTY_SYSTEM}{FOUR_FRAMES[template]}What happens?{ANSWER}"
    sample = agrees(version, document, text, CutChoice.single)
    first = 8 if template == "v2" else 15
    assert sample.media_offset == [first + 5 * frame for frame in range(4)]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_system_prompt_and_several_turns(version):
    document = chat("What is it?", pictures=1)
    document["turns"] = [
        {"role": "system", "content": [{"text": "Be brief."}]},
        *document["turns"],
        *chat("Where?", "In a tree.\n")["turns"],
    ]
    agrees(
        version,
        document,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<|image|>What is it?<|im_end|>"
        "\n<|im_start|>assistant\n[An owl.<|im_end|>]\n<|im_start|>user\nWhere?<|im_end|>"
        "\n<|im_start|>assistant\n[In a tree.\n<|im_end|><|endoftext|>]",
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_thirty_tokens_with_pictures_at_8_and_20_one_without_and_one_at_12(version):
    media = [{"type": "image", "file": f"m{i}.jpg"} for i in range(2)]
    seven, eight = " one two three four five six seven", " one two three four five six seven eight"
    samples = [
        asked({"media": 0}, {"text": seven}, {"media": 1}, media=media),
        asked({"text": " one"}),
        asked({"text": " one two three four"}, {"media": 0}, {"text": eight}, media=media[:1]),
    ]
    prompts = [encoder(version).encode_prompt(raw(document)) for document in samples]
    assert [prompt.num_tokens for prompt in prompts] == [30, 14, 30]
    batch = collate(prompts)
    assert batch.media_offset == [[8, 20], [], [12]]
    assert batch.cu_media.tolist() == [0, 2, 2, 3]
