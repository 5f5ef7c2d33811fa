# SPDX-License-Identifier: Apache-2.0
"""Processors of models that show a picture as one square: what training reads, they write."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from owl.config.run import PictureFit
from owl.data.encode.encoder import SampleEncoder
from owl.data.encode.tokenizer import load_tokenizer
from owl.data.samples import RawSample
from owl.data.shards.document import Document
from owl.data.shown import CutChoice
from owl.families.owl1.reading import Owl1Reading
from owl.families.owl2.reading import Owl2Reading
from owl.portable.marks_owl import Turn, split_marks, to_string
from owl.portable.requests_owl import RequestError
from owl.portable.spliced.clip_tower_owl import normalise_clip
from tests.unit.data.shard_factory import picture
from tests.unit.portable.spliced.spliced_models import (
    FAMILIES,
    KEYS,
    PROCESSORS,
    SIDE,
    save_folder,
    tiny_config,
)

SHAPES = [(40, 24), (20, 31), (9, 9)]
"""Widths and heights of the pictures."""
CONVERSATIONS = [
    [("user", "<|image|>What is this?"), ("assistant", "An owl.")],
    [("system", "Be brief."), ("user", "<|image|><|image|>"), ("assistant", "Two.")],
    [("user", "Hm?"), ("assistant", "Yes?"), ("user", "And <|image|> this?\nSay.")],
    [("user", "one"), ("assistant", "two"), ("user", "three<|image|>"), ("assistant", "four")],
]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    return save_folder(family, tmp_path_factory.mktemp(family))


@pytest.fixture(scope="module")
def processor(folder):
    return AutoProcessor.from_pretrained(folder)


def reading_of(family, processor):
    fit = PictureFit(processor.fit)
    if family == "owl1":
        return Owl1Reading("owl1", SIDE, fit, KEYS)
    return Owl2Reading(processor.template, SIDE, fit, KEYS)


def trained(conversation, family, processor, folder, *, prompt):
    """Encode a conversation as training does; returns the sample and its pictures."""
    media, turns, files = [], [], {}
    for role, text in conversation:
        content = []
        for part in split_marks(text):
            if part == "<|image|>":
                width, height = SHAPES[len(media) % len(SHAPES)]
                name = f"m{len(media)}.png"
                files[name] = picture(width, height, seed=len(media), codec="PNG")
                content.append({"media": len(media)})
                media.append({"type": "image", "file": name})
            else:
                content.append({"text": part})
        turns.append({"role": role, "content": content})
    document = {"schema": "owl3-sample/1", "id": "a/0", "kind": "chat"}
    document |= {"media": media, "turns": turns}
    tokenizer = load_tokenizer(folder, ("<s>", "</s>"))
    encoder = SampleEncoder(tokenizer, reading_of(family, processor))
    raw = RawSample(key="k", shard="s", document=Document.from_json(document), files=files)
    if prompt:
        return encoder.encode_prompt(raw), list(files.values())
    return encoder.encode(raw, source="a", cut=CutChoice.none), list(files.values())


def messages_of(conversation):
    return [{"role": role, "content": text} for role, text in conversation]


def assert_reads_as(batch, sample):
    assert batch["input_ids"][0].tolist() == sample.tokens.tolist()
    if sample.media_offset:
        assert [row.tolist() for row in batch["media_offset"]] == [sample.media_offset]
        expected = normalise_clip(sample.tiles, torch.float32)
        torch.testing.assert_close(batch["pixel_values"], expected, rtol=0, atol=0)
    else:
        assert "pixel_values" not in batch


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_a_prompt_reads_as_in_training(conversation, family, processor, folder):
    asked = conversation[:-1] if conversation[-1][0] == "assistant" else conversation
    sample, pictures = trained(conversation, family, processor, folder, prompt=True)

    batch = processor([*messages_of(asked), {"role": "assistant", "content": ""}], images=pictures)

    assert_reads_as(batch, sample)


@pytest.mark.parametrize("conversation", [CONVERSATIONS[0], CONVERSATIONS[3]])
def test_answers_are_labelled_as_in_training(conversation, family, processor, folder):
    sample, pictures = trained(conversation, family, processor, folder, prompt=False)

    batch = processor(messages_of(conversation), images=pictures, inference_mode=False)

    assert_reads_as(batch, sample)
    learned = (batch["labels"][0] != -100).tolist()
    assert learned == (sample.loss_weights > 0).tolist()
    assert batch["labels"][0, -1] == 2  # </s>


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_a_rendered_string_reads_the_same(conversation, family, processor):
    pictures = [np.full((5, 9, 3), 80, np.uint8)] * sum(
        t.count("<|image|>") for _, t in conversation
    )
    messages = messages_of(conversation)
    entries = [
        {
            "role": message["role"],
            "content": [
                {"type": "image"} if part == "<|image|>" else {"type": "text", "text": str(part)}
                for part in split_marks(message["content"])
            ],
        }
        for message in messages
    ]
    is_open = conversation[-1][0] == "user"

    text = processor.apply_chat_template(entries, tokenize=False, add_generation_prompt=is_open)
    turns = [Turn(role, split_marks(text)) for role, text in conversation]
    assert text == to_string(processor.chat.render(turns, is_open))
    for form in (messages, entries):
        jinja = processor.tokenizer.apply_chat_template(
            form,
            chat_template=processor.chat_template,
            tokenize=False,
            add_generation_prompt=is_open,
        )
        assert jinja == text

    rendered = processor(text, images=pictures)
    closed = {"inference_mode": False} if not is_open else {}
    asked = messages if not is_open else [*messages, {"role": "assistant", "content": ""}]
    assert torch.equal(
        processor(asked, images=pictures, **closed)["input_ids"], rendered["input_ids"]
    )


def test_the_published_prompts_are_read(family, processor):
    grey = np.full((5, 9, 3), 80, np.uint8)
    if family == "owl2":
        prompt = "USER: <|image|>Describe the image. ASSISTANT:"
        question = "Describe the image."
    else:
        from owl.families.owl1.markup_owl1 import SYSTEM

        prompt = f"{SYSTEM}\nHuman: <image>\nHuman: Explain.\nAI: "
        question = "Explain."
    content = [{"type": "image", "image": grey}, {"type": "text", "text": question}]
    expected = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip

    batch = processor(text=[prompt], images=[grey])

    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["pixel_values"], expected["pixel_values"])


@pytest.mark.parametrize("fit", list(PictureFit))
@pytest.mark.parametrize("parity", ["torch", "pillow"])
def test_every_fit_gives_squares(family, folder, fit, parity):
    processor = PROCESSORS[family].from_pretrained(folder, fit=str(fit), parity=parity)
    stripes = np.zeros((10, 60, 3), np.uint8)
    stripes[:, 25:35] = 255

    tiles = processor("<|image|>", images=[stripes])["pixel_values"]

    assert tiles.shape == (1, 3, SIDE, SIDE)
    bright = tiles[0, 0] > 1.5
    width = {"pad": 5, "stretch": 5, "crop": 28}[fit]
    assert abs(int(bright[SIDE // 2].sum()) - width) <= 3
    if fit == "pad":
        assert tiles[0, :, 0, 0].abs().max() < 0.02  # the mean colour


def test_a_batch_of_mixed_pictures_is_padded_on_either_side(processor):
    grey = np.full((5, 9, 3), 80, np.uint8)
    image = {"type": "image", "image": grey}
    few = [{"role": "user", "content": [image, {"type": "text", "text": "a"}, image]}]
    batch = [[{"role": "user", "content": "Long enough?"}], few, few]

    sides = [
        processor.apply_chat_template(
            batch, add_generation_prompt=True, tokenize=True, return_dict=True,
            return_tensors="pt", padding_side=side,
        )
        for side in ("left", "right")
    ]  # fmt: skip

    for inputs in sides:
        assert inputs["pixel_values"].shape == (4, 3, SIDE, SIDE)
        assert [len(row) for row in inputs["media_offset"]] == [0, 2, 2]
        assert inputs["input_ids"][inputs["attention_mask"] == 0].unique().tolist() in ([], [0])
    assert [row.tolist() for row in sides[0]["media_offset"]] == [
        row.tolist() for row in sides[1]["media_offset"]
    ]


def test_a_video_is_shown_as_its_frames(family, processor):
    clip = np.zeros((3, 6, 6, 3), np.uint8)

    inputs = processor("<|video|>", videos=[clip])

    (offsets,) = inputs["media_offset"]
    gaps = offsets.diff().tolist()
    assert inputs["pixel_values"].shape == (3, 3, SIDE, SIDE)
    assert min(gaps) >= KEYS
    assert (family == "owl2") == (gaps == [KEYS, KEYS])  # the other has a line each


def test_settings_and_a_changed_template_survive_saving(family, folder, tmp_path):
    processor = PROCESSORS[family].from_pretrained(folder, fit="crop", chat_template="{{ 7 }}")
    processor.save_pretrained(tmp_path)

    again = AutoProcessor.from_pretrained(tmp_path)

    assert type(again) is PROCESSORS[family]
    assert (again.fit, again.image_size, again.tokens_per_picture) == ("crop", SIDE, KEYS)
    assert again.chat_template == "{{ 7 }}"


def test_a_picture_may_be_a_path_bytes_or_an_opened_one(processor, tmp_path):
    stream = io.BytesIO()
    Image.new("RGB", (12, 7), "teal").save(stream, "PNG")
    (tmp_path / "a.png").write_bytes(stream.getvalue())
    sources = [tmp_path / "a.png", str(tmp_path / "a.png"), stream.getvalue()]
    sources.append(Image.open(tmp_path / "a.png"))

    squares = [processor("<|image|>", images=[source])["pixel_values"] for source in sources]

    assert all(torch.equal(each, squares[0]) for each in squares)


def test_what_cannot_be_is_an_error(family, folder, processor):
    for name in ("fit", "parity"):
        with pytest.raises(ValueError, match=f"{name}='odd' must be one of"):
            PROCESSORS[family].from_pretrained(folder, **{name: "odd"})
    with pytest.raises(RequestError, match=r"2 <\|image\|> but 1 images"):
        processor("<|image|><|image|>", images=[np.zeros((3, 3, 3), np.uint8)])
    with pytest.raises(RequestError, match="an option of each call"):
        PROCESSORS[family].from_pretrained(folder, max_frames=3)


def test_the_published_field_says_how_pictures_are_fitted(family, tmp_path):
    save_folder(family, tmp_path)
    file = tmp_path / "config.json"
    for name, fit in ((None, "stretch"), ("pad", "pad"), ("resize", "stretch"), ("anyres", "crop")):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"image_aspect_ratio": name}))
        assert AutoProcessor.from_pretrained(tmp_path).fit == fit
    assert tiny_config(family).fit == "stretch"


def test_the_template_of_fine_tuning_has_a_system_sentence(tmp_path):
    save_folder("owl2", tmp_path)
    processor = PROCESSORS["owl2"].from_pretrained(tmp_path, template="v1")
    question = [{"role": "user", "content": "Hm?"}]

    text = processor.apply_chat_template(question, tokenize=False, add_generation_prompt=True)

    assert text.startswith("<s>A chat between a curious user")
    assert text.endswith("questions. USER: Hm? ASSISTANT:")
    jinja = processor.tokenizer.apply_chat_template(
        question, chat_template=processor.chat_template, tokenize=False, add_generation_prompt=True
    )
    assert jinja == text
    bare = PROCESSORS["owl2"].from_pretrained(tmp_path, template="pretrain")
    assert (
        bare.apply_chat_template(question, tokenize=False, add_generation_prompt=True) == "<s>Hm?"
    )
