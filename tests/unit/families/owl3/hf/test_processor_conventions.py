# SPDX-License-Identifier: Apache-2.0
"""The processor answers as other processors of transformers do."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from owl.families.owl3.hf.template_owl3 import CHAT_TEMPLATE
from owl.hf import Owl3Processor
from owl.portable.requests_owl import RequestError
from tests.unit.families.owl3.hf.conftest import build
from tests.unit.families.owl3.hf.test_processing_owl3 import (
    ask,
    assert_same,
    entries,
    image,
    say,
    show,
)

FULL = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
TALK = [
    *entries(show(image()), say("Which?")),
    {"role": "assistant", "content": "This."},
    *entries(say("Sure?")),
    {"role": "assistant", "content": "Yes."},
]
OWN_TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: "
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{% for p in m.content %}{{ '<|image|>' if p.type == 'image' else p.text }}"
    "{% endfor %}{% endif %}{{ ending }}{% endfor %}"
)


def test_lists_are_returned_unless_tensors_are_requested(processor):
    both = [entries(show(image()), say("A")), entries(say("Longer than that."))]
    tensors = processor.apply_chat_template(both, **FULL)
    lists = processor.apply_chat_template(both, tokenize=True, return_dict=True)
    for name in ("input_ids", "attention_mask"):
        assert lists[name] == tensors[name].tolist()
    assert lists["media_offset"] == [part.tolist() for part in tensors["media_offset"]]
    assert torch.equal(lists["pixel_values"], tensors["pixel_values"])
    assert processor.apply_chat_template(both, tokenize=True) == lists["input_ids"]


def test_lists_are_no_input_of_the_model(processor):
    lists = processor.apply_chat_template(entries(say("A")), tokenize=True, return_dict=True)
    for call in (build("token_gate"), build("token_gate").generate):
        with pytest.raises(ValueError, match="Pass return_tensors='pt'"):
            call(**lists)


def test_labels_come_as_tensors(processor):
    batch = processor.apply_chat_template(TALK, tokenize=True, return_dict=True, return_labels=True)
    assert isinstance(batch["labels"], torch.Tensor)
    assert isinstance(batch["input_ids"], torch.Tensor)


def test_requests_may_be_named_messages_as_published(processor):
    messages, pictures = ask("<|image|>?"), [image()]
    assert_same(processor(messages=messages, images=pictures), processor(messages, pictures))
    with pytest.raises(RequestError, match="names of the same argument"):
        processor("Hi", messages=messages)


def test_options_may_come_in_transformers_groups(processor):
    grouped = {"images_kwargs": {"cut_enable": False}, "text_kwargs": {"padding_side": "right"}}
    given = [[*entries(show(image()), say("A"))], [*entries(say("Longer than that."))]]
    assert_same(
        processor.apply_chat_template(given, **FULL, **grouped),
        processor.apply_chat_template(given, **FULL, cut_enable=False, padding_side="right"),
    )
    with pytest.raises(RequestError, match="did you mean cut_enable"):
        processor("Hi", images_kwargs={"cut_enabled": False})


def test_frames_are_limited_under_transformers_names_too(processor):
    clip = np.zeros((20, 9, 9, 3), np.uint8)

    def frames(**options) -> int:
        return len(processor("<|video|>", videos=[clip], **options)["pixel_values"])

    assert [frames(), frames(num_frames=3), frames(max_frames=3)] == [16, 3, 3]
    assert frames(do_sample_frames=False) == 20


@dataclass
class Message:
    role: str
    content: list
    name: str | None = None


def test_messages_may_be_objects_and_of_the_openai_form(processor, tmp_path):
    image().save(tmp_path / "a.png")
    url = {"type": "image_url", "image_url": {"url": str(tmp_path / "a.png")}}
    plain = entries(show(image()), say("What?"))
    for same in (entries(url, say("What?")), [Message("user", [url, say("What?")])]):
        assert_same(
            processor.apply_chat_template(same, **FULL),
            processor.apply_chat_template(plain, **FULL),
        )


@pytest.mark.parametrize("side", ["left", "right"])
def test_masks_are_at_the_tokens_that_labels_learn(processor, side):
    batch = processor.apply_chat_template(
        [TALK, TALK[2:]], **FULL, padding_side=side,
        return_labels=True, return_assistant_tokens_mask=True,
    )  # fmt: skip
    assert torch.equal(batch["assistant_masks"].bool(), batch["labels"] != -100)
    first = batch["input_ids"][0][batch["assistant_masks"][0].bool()]
    assert processor.decode(first) == "This.<|im_end|>Yes.<|im_end|><|endoftext|>"


def test_a_template_of_ones_own_is_tokenised_with_its_media(processor):
    options = {"chat_template": OWN_TEMPLATE, "ending": "#", "cut_enable": False}
    batch = processor.apply_chat_template(
        TALK, **FULL, **options, return_assistant_tokens_mask=True, return_labels=True
    )
    tokens = batch["input_ids"][0]
    text = "user: <|image|>Which?#assistant: This.#user: Sure?#assistant: Yes.#"
    assert processor.decode(tokens) == text
    assert processor.apply_chat_template(TALK, **options) == text
    assert processor.decode(tokens[batch["assistant_masks"][0].bool()]) == "This.Yes."
    assert batch["media_offset"][0].tolist() == [len("user: ")]  # a byte is a token here
    unmarked = OWN_TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    with pytest.raises(RequestError, match=r"return_labels=True: .*Put \{% generation %\}"):
        processor.apply_chat_template(TALK, **FULL, chat_template=unmarked, return_labels=True)


def test_a_changed_template_survives_saving(processor, tmp_path):
    changed = Owl3Processor(
        processor.tokenizer, processor.image_size, processor.template, chat_template=OWN_TEMPLATE
    )
    changed.save_pretrained(tmp_path)
    again = Owl3Processor.from_pretrained(tmp_path)
    assert again.chat_template == OWN_TEMPLATE
    assert again.apply_chat_template(TALK, ending="#").endswith("Yes.#")
    processor.save_pretrained(tmp_path)
    assert Owl3Processor.from_pretrained(tmp_path).chat_template == CHAT_TEMPLATE


def test_pictures_and_videos_are_encoded_alone(processor):
    pictures, clip = [image(1), image(2, 90, 20)], np.zeros((5, 9, 9, 3), np.uint8)
    encoded = processor.image_processor(pictures, return_tensors="pt")
    whole = processor("<|image|><|image|>", images=pictures)
    assert torch.equal(encoded["pixel_values"], whole["pixel_values"])
    assert sum(encoded["num_tiles"]) == len(whole["media_offset"][0])
    assert len(processor.image_processor(pictures[0], cut_enable=False)["pixel_values"]) == 1
    assert processor.video_processor([clip], max_frames=3)["num_tiles"] == [3]


@pytest.mark.parametrize("template", ["v2", "v3"])
def test_tokens_of_pictures_are_counted_from_their_sizes(processor, template):
    processor = Owl3Processor(processor.tokenizer, processor.image_size, template)
    sizes = [(37, 50), (20, 90), (300, 30)]
    counted = processor._get_num_multimodal_tokens(image_sizes=sizes)
    for (height, width), tokens, tiles in zip(
        sizes, counted["num_image_tokens"], counted["num_image_patches"], strict=True
    ):
        encoded = processor("a<|image|>b", images=[image(0, width, height)])
        assert tokens == encoded["input_ids"].shape[1] - 2
        assert tiles == len(encoded["pixel_values"])
