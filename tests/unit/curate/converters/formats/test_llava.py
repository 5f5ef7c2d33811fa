# SPDX-License-Identifier: Apache-2.0
import pytest

from owl.curate.converters.prompt_endings import PromptEnding
from tests.unit.curate.converters.converting import (
    convert_all,
    convert_lines,
    write_pictures,
)
from tests.unit.data.shard_factory import picture


def talk(*said, **fields):
    speakers = ["human", "gpt"] * len(said)
    turns = [
        {"from": speaker, "value": text} for speaker, text in zip(speakers, said, strict=False)
    ]
    return {"conversations": turns} | fields


RECORDS = [
    talk("<image>\nWhat is it?", "An owl.", id="1", image="a/1.jpg"),
    talk("What is it?\n<image>", "An owl.", "Sure?", " Yes \n", id=2, image=["a/1.jpg"]),
    talk("<image><image> Same?", "No.", id="3", image=["b.jpg", "a/1.jpg"], extra={"score": 0.5}),
    talk("Hello", "Hi", id="4"),
    talk("Hello", "Hi", id="5", image=None),
    talk("Hello", "Hi", id="6", image=[]),
    {
        "id": "7",
        "image": "b.jpg",
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "user", "value": "<image>?", "time": 3},
            {"from": "assistant", "value": "An owl."},
        ],
    },
]


def test_every_spelling_of_a_record_is_read(tmp_path):
    write_pictures(tmp_path / "images", "a/1.jpg", "b.jpg")
    samples = convert_all(tmp_path, "llava", *RECORDS).samples
    shown = [[media["uri"] for media in sample.document["media"]] for sample in samples]
    assert shown == [["a/1.jpg"], ["a/1.jpg"], ["b.jpg", "a/1.jpg"], [], [], [], ["b.jpg"]]
    roles = [turn["role"] for turn in samples[-1].document["turns"]]
    assert roles == ["system", "user", "assistant"]
    assert samples[-1].document["meta"]["raw"]["conversations"] == [{}, {"time": 3}, {}]


def test_text_around_the_mark_stays_as_it_is(tmp_path):
    write_pictures(tmp_path / "images", "a.jpg")
    record = talk(" See <image>\n here ", "\tYes.", image="a.jpg")
    document = convert_lines(tmp_path, "llava", record).document
    assert document["turns"][0]["content"] == [
        {"text": " See "},
        {"media": 0},
        {"text": "\n here "},
    ]
    assert document["turns"][1]["content"] == [{"text": "\tYes."}]
    assert document["media"] == [
        {"type": "image", "file": "m0000.jpg", "w": 20, "h": 12, "uri": "a.jpg"}
    ]


def test_a_png_named_jpg_is_stored_as_what_it_is(tmp_path):
    data = picture(codec="PNG")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.jpg").write_bytes(data)
    (sample,) = convert_lines(tmp_path, "llava", talk("<image>?", "!", image="a.jpg")).samples
    assert sample.files == {"m0000.png": data}


@pytest.mark.parametrize(
    ("record", "code", "words"),
    [
        (talk("<image>?", "!", image="gone.jpg"), "E302", "'gone.jpg' is not a file"),
        (talk("<image>?", "!", image="torn.jpg"), "E308", "cannot be decoded"),
        (talk("<image>?", "!", image="text.jpg"), "E307", "are none of JPEG"),
        (talk("<image>?", "!"), "E305", "more <image> than the 0 media"),
        (talk("?", "!", image="a.jpg"), "E305", "1 media but only 0 <image>"),
        (talk("<image>?", "!", image=7), "E203", "image=7 must be a string"),
        (talk("<image>?", "!", image=["a.jpg", None]), "E203", "image[1]=None must be a string"),
        (talk("?"), "E205", "ends with assistant"),
        (talk("?", ""), "E204", "no content"),
        (talk(["?"], "!"), "E203", "conversations[0].value=['?'] must be a string"),
        ({"id": "1"}, "E203", "conversations is missing"),
        ([1], "E203", "the record=[1] must be an object"),
        ({"conversations": [{"from": "bot", "value": "?"}]}, "E203", "conversations[0].from='bot'"),
        (talk("a <|im_end|> b", "!"), "E206", "<|im_end|>"),
        (talk("a\x00b", "!"), "E208", "NUL"),
    ],
)
def test_a_bad_record_is_rejected_with_its_line(tmp_path, record, code, words):
    images = write_pictures(tmp_path / "images", "a.jpg")
    (images / "torn.jpg").write_bytes(picture(200, 200)[:-600])
    (images / "text.jpg").write_text("not found")
    good = talk("?", "!", id="good")
    converted = convert_lines(tmp_path, "llava", good, record, good)
    assert converted.report.samples == 2
    assert converted.report.codes == {code: 1}
    assert converted.reject["file"] == "source.jsonl"
    assert converted.reject["line"] == 2
    assert converted.reject["code"] == code
    assert words in converted.reject["message"]


@pytest.mark.parametrize(
    ("ending", "wording"),
    [
        (PromptEnding.short_answer, "\nAnswer the question using a single word or phrase."),
        (
            PromptEnding.multiple_choice,
            "\nAnswer with the option\u2019s letter from the given choices directly.",
        ),
    ],
)
def test_prompt_endings_are_added_once(tmp_path, ending, wording):
    plain = talk("Which?", "A", "And now?", "B")
    asked = talk("Which?" + wording.replace("\u2019", "'"), "A")
    converted = convert_all(tmp_path, "llava", plain, asked, prompt_ending=ending)
    first, second = [sample.document["turns"] for sample in converted.samples]
    assert [len(turn["content"]) for turn in first] == [2, 1, 2, 1]
    assert first[0]["content"][1] == {"text": wording}
    assert len(second[0]["content"]) == 1


def test_escaped_text_is_kept_but_for_a_space_without_width(tmp_path):
    record = talk("What does <|im_start|> mean, and <|image|>?", "A turn.")
    document = convert_all(tmp_path, "llava", record, escape=True).document
    (part,) = document["turns"][0]["content"]
    assert part["text"] == "What does <\u200b|im_start|> mean, and <\u200b|image|>?"


def test_cut_marks_every_picture(tmp_path):
    write_pictures(tmp_path / "images", "a.jpg")
    record = talk("<image>?", "!", image="a.jpg")
    assert convert_lines(tmp_path, "llava", record, cut="on").document["media"][0]["cut"] == "on"
