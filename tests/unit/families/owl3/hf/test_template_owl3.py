# SPDX-License-Identifier: Apache-2.0
"""A request in messages reads as the same conversation in a shard, and as its Jinja rendering."""

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from owl.data.encode.template import render_prompt, render_sample
from owl.data.shards.document import Document
from owl.families.owl3.hf.template_owl3 import CHAT_TEMPLATE, parse_rendered, render
from owl.families.owl3.markup_owl3 import TEMPLATES
from owl.families.owl3.reading import Clip, Owl3Reading, Picture
from owl.families.owl3.tiles_owl3 import Grid
from owl.portable.marks_owl import Mark, Turn, number_media, split_marks, to_string
from owl.portable.pieces_owl import Control, Text, Tile, join_text

CONVERSATIONS = [
    [("user", "What is <|image|> this?"), ("assistant", "An owl.")],
    [("system", "Be brief."), ("user", "<|image|><|image|>"), ("assistant", "\nTwo.")],
    [("user", "\nHm"), ("assistant", "Yes?"), ("user", "<|video|> and <|image|>")],
    [("user", "one"), ("assistant", "  \n two"), ("user", "three"), ("assistant", "four")],
]


def to_turns(conversation) -> list[Turn]:
    return [Turn(role, split_marks(text)) for role, text in conversation]


def to_document(conversation) -> tuple[Document, list]:
    """Write the same as an owl3-sample/1, with a grid for pictures and three frames a video."""
    turns, places = [], []
    for role, text in conversation:
        content = []
        for part in split_marks(text):
            if isinstance(part, Mark):
                content.append({"media": len(places)})
                picture = Picture("m.jpg", Grid(2, 3))
                places.append(picture if part is Mark.image else Clip(("a", "b", "c")))
            else:
                content.append({"text": part})
        turns.append({"role": role, "content": content})
    return Document.from_json({"kind": "chat", "turns": turns}), places


def with_media(pieces, version):
    for piece in pieces:
        if piece is Mark.image:
            yield from TEMPLATES[version].cut_picture(Grid(2, 3))
        elif piece is Mark.video:
            yield from TEMPLATES[version].clip(3)
        else:
            yield piece


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("version", ["v2", "v3"])
def test_a_conversation_is_written_as_for_training(conversation, version):
    document, places = to_document(conversation)
    reading = Owl3Reading(version, 384)
    ends_with_answer = conversation[-1][0] == "assistant"

    ours = list(with_media(render(to_turns(conversation), open_prompt=False), version))
    theirs = list(render_sample(document, places, reading))
    if not ends_with_answer:
        theirs.pop()  # training closes every sample, a chat waits for its next turn

    assert ours == theirs


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("version", ["v2", "v3"])
def test_a_prompt_is_written_as_for_training(conversation, version):
    document, places = to_document(conversation)
    reading = Owl3Reading(version, 384)
    asked = to_turns(conversation)
    if asked[-1].role == "assistant":
        asked = [*asked[:-1], Turn("assistant", ())]

    ours = list(with_media(render(asked, open_prompt=True), version))
    theirs = list(render_prompt(document, places, reading))

    assert ours == theirs


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("open_prompt", [True, False])
@pytest.mark.parametrize("numbered", [True, False])
def test_the_jinja_template_writes_the_same_string(conversation, open_prompt, numbered):
    pieces = list(render(to_turns(conversation), open_prompt=open_prompt))
    messages = [
        {
            "role": role,
            "content": [
                {"type": part.name} if isinstance(part, Mark) else {"type": "text", "text": part}
                for part in split_marks(text)
            ],
        }
        for role, text in conversation
    ]

    texts, spans = render_jinja_template(
        conversations=[messages],
        chat_template=CHAT_TEMPLATE,
        return_assistant_tokens_mask=True,
        add_generation_prompt=open_prompt,
        number_media=numbered,
    )

    assert texts[0] == to_string(number_media(pieces) if numbered else pieces)
    if not numbered:
        written = "".join(texts[0][first:stop] for first, stop in spans[0])
        learned = (piece for piece in pieces if getattr(piece, "weight", 0))
        assert written.replace("<|image|>", "") == to_string(learned)


def test_an_empty_assistant_turn_asks_for_an_answer_in_both_templates():
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""}]
    turns = [Turn("user", ("Hi",)), Turn("assistant", ())]

    ours = to_string(render(turns, open_prompt=False))

    assert ours.endswith("Hi<|im_end|>\n<|im_start|>assistant\n")
    texts, _ = render_jinja_template(conversations=[messages], chat_template=CHAT_TEMPLATE)
    assert texts == [ours]


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_a_rendered_string_is_read_back_piece_by_piece(conversation):
    pieces = list(render(to_turns(conversation), open_prompt=True))

    def content(some) -> list:
        joined = join_text(
            Text(p.text, closed=p.closed) if isinstance(p, Text) else p for p in some
        )
        return [p.literal if isinstance(p, Control) else p for p in joined]

    assert content(parse_rendered(to_string(pieces))) == content(pieces)


def test_control_literals_that_a_user_types_stay_text():
    assert split_marks("<|im_end|> <|image|>") == ("<|im_end|> ", Mark.image)


def test_media_are_numbered_by_kind():
    numbered = to_string(number_media([Mark.image, Mark.video, Mark.image, Tile()]))
    assert numbered == "Picture 1: <|image|>Video 1: <|video|>Picture 2: <|image|><|image|>"
