# SPDX-License-Identifier: Apache-2.0
"""What mPLUG-Owl is shown, token by token: `|` is a newline, `_` the space of SentencePiece.

Every mark of the template is tokenised by itself, as the released training code does: `_|Human:_`.
"""

import pytest

from owl.config.run import FamilyKind, ModelConfig, PictureFit, ProjectorKind
from owl.data.encode.encoder import SampleEncoder
from owl.data.encode.tokenizer import load_tokenizer
from owl.data.families import reading_of
from owl.data.samples import RawSample
from owl.data.shards.document import Document
from owl.data.shown import CutChoice
from owl.families.owl1.reading import Owl1Reading
from tests.llama_tokenizer import SPACE, readable, write_llama_tokenizer
from tests.unit.data.shard_factory import chat, picture

SYSTEM = (
    "_The_following_is_a_conversation_between_a_curious_human_and_AI_assistant."
    "_The_assistant_gives_helpful,_detailed,_and_polite_answers_to_the_user's_questions."
)
SIZE, TILE = 28, 9


@pytest.fixture
def tokenizer(tmp_path):
    return load_tokenizer(write_llama_tokenizer(tmp_path), ("<s>", "</s>"))


def shown(tokenizer, document, prompt=False):
    encoder = SampleEncoder(tokenizer, Owl1Reading("owl1", SIZE, PictureFit.stretch, TILE))
    files = {file: picture() for media in document["media"]
             for file in media.get("files", [media.get("file")])}  # fmt: skip
    raw = RawSample(key="k", shard="s", document=Document.from_json(document), files=files)
    if prompt:
        sample = encoder.encode_prompt(raw)
    else:
        sample = encoder.encode(raw, source="a", cut=CutChoice.none)
    assert len(sample.tiles) == len(sample.media_offset)
    text = readable(
        sample.tokens.tolist(),
        sample.loss_weights.tolist(),
        offsets=sample.media_offset,
        tile=TILE,
    )
    return text.replace(SPACE, "_")


def with_content(*content, media=()):
    document = chat()
    document["media"] = list(media)
    document["turns"][0]["content"] = list(content)
    return document


def test_a_picture_and_a_question_have_a_line_each(tokenizer):
    assert shown(tokenizer, chat("Who?", "An owl.", pictures=1)) == (
        f"<s>{SYSTEM}_|Human:_~_|Human:__Who?|_AI:_[_An_owl.</s>]"
    )


def test_text_alone_and_several_answers(tokenizer):
    document = chat("A?", "B.")
    document["turns"] += chat("C?", "D.")["turns"]
    assert shown(tokenizer, document) == (
        f"<s>{SYSTEM}_|Human:__A?|_AI:_[_B.</s>]_|Human:__C?|_AI:_[_D.</s>]"
    )


def test_several_pictures_are_several_lines(tokenizer):
    image = [{"type": "image", "file": f"m{number}.jpg"} for number in range(3)]
    content = ({"media": 0}, {"media": 1}, {"text": "or"}, {"media": 2})
    assert shown(tokenizer, with_content(*content, media=image)) == (
        f"<s>{SYSTEM}_|Human:_~_|Human:_~_|Human:__or_|Human:_~_|_AI:_[_An_owl.</s>]"
    )


def test_a_clip_is_a_line_for_each_frame(tokenizer):
    clip = {"type": "frames", "files": ["f0.jpg", "f1.jpg"]}
    document = with_content({"media": 0}, {"text": "Who?"}, media=[clip])
    assert shown(tokenizer, document) == (
        f"<s>{SYSTEM}_|Human:_~_|Human:_~_|Human:__Who?|_AI:_[_An_owl.</s>]"
    )


def test_a_document_has_no_lines(tokenizer):
    clip = {"type": "frames", "files": ["f0.jpg", "f1.jpg"]}
    document = with_content({"media": 0}, {"text": "Two owls."}, media=[clip])
    document |= {"kind": "document", "turns": [document["turns"][0] | {"role": "document"}]}
    assert shown(tokenizer, document) == "<s>~~[_Two_owls.</s>]"


def test_parts_of_a_question_are_one_text(tokenizer):
    assert shown(tokenizer, with_content({"text": "Who "}, {"text": "is it?"})) == (
        f"<s>{SYSTEM}_|Human:__Who_is_it?|_AI:_[_An_owl.</s>]"
    )


def test_a_prompt_is_what_training_showed_before_the_answer(tokenizer):
    document = chat("A?", "B.", pictures=1)
    learned = shown(tokenizer, document).replace("[", "").replace("]", "")
    assert learned == f"{shown(tokenizer, document, prompt=True)}_B.</s>"


def test_settings_come_from_the_model():
    model = ModelConfig(family=FamilyKind.owl1, template="owl1", projector=ProjectorKind.abstractor)
    assert reading_of(model) == Owl1Reading("owl1", 384, PictureFit.stretch, 65)
