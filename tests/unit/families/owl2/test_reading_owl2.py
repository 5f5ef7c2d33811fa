# SPDX-License-Identifier: Apache-2.0
"""What mPLUG-Owl2 is shown, token by token: `|` is a newline, `_` the space of SentencePiece."""

import pytest

from owl.config.run import FamilyKind, ModelConfig, PictureFit, ProjectorKind
from owl.data.encode.encoder import SampleEncoder
from owl.data.encode.tokenizer import load_tokenizer
from owl.data.families import reading_of
from owl.data.samples import RawSample
from owl.data.shards.document import Document
from owl.data.shown import CutChoice
from owl.families.owl2.reading import Owl2Reading
from tests.llama_tokenizer import SPACE, readable, write_llama_tokenizer
from tests.unit.data.shard_factory import chat, files_of, picture

SYSTEM = (
    "A_chat_between_a_curious_user_and_an_artificial_intelligence_assistant."
    "_The_assistant_gives_helpful,_detailed,_and_polite_answers_to_the_user's_questions."
)
SIZE, TILE = 28, 9


@pytest.fixture(params=[False, True], ids=["transformers4", "transformers5"])
def tokenizer(tmp_path, request):
    return load_tokenizer(write_llama_tokenizer(tmp_path, metaspace=request.param), ("<s>", "</s>"))


def shown(tokenizer, document, template="mplug_owl2", prompt=False):
    encoder = SampleEncoder(tokenizer, Owl2Reading(template, SIZE, PictureFit.pad, TILE))
    raw = RawSample(
        key="k", shard="s", document=Document.from_json(document), files=files_of(document)
    )
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


def turns(*texts):
    """A conversation; its roles alternate."""
    document = chat()
    document["turns"] = [
        {"role": role, "content": [{"text": text}]}
        for role, text in zip(("user", "assistant") * 4, texts, strict=False)
    ]
    return document


def test_an_answer_is_learned_with_its_end(tokenizer):
    assert shown(tokenizer, chat("Who?", "An owl.", pictures=1)) == (
        "<s>_USER:_~_Who?_ASSISTANT:[_An_owl.</s>]"
    )


def test_a_text_alone_is_tokenised_as_one(tokenizer):
    assert shown(tokenizer, chat("Who?", "An owl.")) == "<s>_USER:_Who?_ASSISTANT:[_An_owl.</s>]"


def test_every_answer_of_a_conversation_is_learned(tokenizer):
    assert shown(tokenizer, turns("A?", "B.", "C?", "D.")) == (
        "<s>_USER:_A?_ASSISTANT:[_B.</s>]_USER:_C?_ASSISTANT:[_D.</s>]"
    )


def test_the_template_of_fine_tuning_has_a_system_sentence(tokenizer):
    assert shown(tokenizer, chat("Who?", "Owl.", pictures=1), "v1") == (
        f"<s>_{SYSTEM}_USER:_~_Who?_ASSISTANT:[_Owl.</s>]"
    )


@pytest.mark.parametrize("template", ["mplug_owl2", "v1"])
def test_a_system_turn_takes_the_place_of_the_templates_own(tokenizer, template):
    document = chat("Who?", "Owl.")
    document["turns"].insert(0, {"role": "system", "content": [{"text": "Be kind."}]})
    assert shown(tokenizer, document, template) == ("<s>_Be_kind._USER:_Who?_ASSISTANT:[_Owl.</s>]")


def test_pictures_stand_anywhere_and_side_by_side(tokenizer):
    document = chat(pictures=3)
    document["turns"][0]["content"] = [
        {"media": 0}, {"media": 1}, {"text": "or "}, {"media": 2},
    ]  # fmt: skip
    # A picture at the end of a question: the text after it begins with two spaces, as published.
    assert shown(tokenizer, document) == "<s>_USER:_~~_or_~__ASSISTANT:[_An_owl.</s>]"


def test_pre_training_has_no_roles(tokenizer):
    assert shown(tokenizer, chat("", "An owl.", pictures=1), "pretrain") == "<s>~[_An_owl.</s>]"


@pytest.mark.parametrize("template", ["mplug_owl2", "v1", "pretrain"])
def test_a_document_is_written_as_it_is(tokenizer, template):
    document = {
        **chat(pictures=2),
        "kind": "document",
        "turns": [
            {
                "role": "document",
                "content": [{"media": 0}, {"text": "One."}, {"media": 1}, {"text": "Two."}],
            }
        ],
    }
    assert shown(tokenizer, document, template) == "<s>~[_One.]~[_Two.</s>]"


def test_a_clip_is_its_frames(tokenizer):
    document = chat("Who?")
    document["media"] = [{"type": "frames", "files": ["f0.jpg", "f1.jpg", "f2.jpg"]}]
    document["turns"][0]["content"].insert(0, {"media": 0})
    encoder = SampleEncoder(tokenizer, Owl2Reading("mplug_owl2", SIZE, PictureFit.pad, TILE),
                            max_frames=2)  # fmt: skip
    raw = RawSample(key="k", shard="s", document=Document.from_json(document),
                    files=dict.fromkeys(("f0.jpg", "f1.jpg", "f2.jpg"), picture()))  # fmt: skip
    sample = encoder.encode(raw, source="a", cut=CutChoice.none)
    assert [b - a for a, b in zip(sample.media_offset, sample.media_offset[1:], strict=False)] == [
        TILE
    ]
    assert sample.tiles.shape == (2, 3, SIZE, SIZE)


@pytest.mark.parametrize("template", ["mplug_owl2", "v1"])
def test_a_prompt_is_what_training_showed_before_the_answer(tokenizer, template):
    document = turns("A?", "B.", "C?", "D.")
    asked = shown(tokenizer, document, template, prompt=True)
    learned = shown(tokenizer, document, template).replace("[", "").replace("]", "")
    assert learned == f"{asked}_D.</s>"


def test_a_learned_question_does_not_change_the_tokens(tokenizer):
    document = chat("Who?", "Owl.")
    plain = shown(tokenizer, document)
    document["turns"][0]["loss"] = True
    assert shown(tokenizer, document) == "<s>_USER:[_Who?]_ASSISTANT:[_Owl.</s>]"
    assert plain == shown(tokenizer, document).replace("[_Who?]", "_Who?")


def test_what_looks_like_markup_stays_text(tokenizer):
    written = shown(tokenizer, chat("Who?", "<|image|>"))
    assert written == "<s>_USER:_Who?_ASSISTANT:[_<|image|></s>]"
    encoder = SampleEncoder(tokenizer, Owl2Reading("mplug_owl2", SIZE, PictureFit.pad, TILE))
    document = chat("a</s>b", "c")
    raw = RawSample(key="k", shard="s", document=Document.from_json(document), files={})
    tokens = encoder.encode(raw, source="a", cut=CutChoice.none).tokens.tolist()
    assert tokens.count(tokenizer.control_id("</s>")) == 1


def test_settings_come_from_the_model():
    model = ModelConfig(family=FamilyKind.owl2, template="v1", projector=ProjectorKind.abstractor)
    reading = reading_of(model)
    assert reading == Owl2Reading("v1", 384, PictureFit.pad, 65)
    assert reading.settings["model.family"] == "owl2"
