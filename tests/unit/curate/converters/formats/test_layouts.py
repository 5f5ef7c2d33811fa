# SPDX-License-Identifier: Apache-2.0
"""Records as other projects write them: which layout they are taken for, and what is shown."""

import json
from base64 import b64encode

import pytest

from tests.unit.curate.converters.converting import convert_lines, write_pictures
from tests.unit.curate.converters.formats.test_parquet import make_job, run_job, write_table
from tests.unit.data.shard_factory import picture

ASKED = {"role": "user", "content": "<image>What?"}
SAID = {"role": "assistant", "content": "An owl."}
SHOWN = [{"media": 0}, {"text": "What?"}]


@pytest.fixture
def images(tmp_path):
    return write_pictures(tmp_path / "images", "a.jpg", "b.jpg", "film/1.jpg", "film/2.jpg")


def contents(converted):
    return [turn["content"] for turn in converted.document["turns"]]


def roles(converted):
    return [turn["role"] for turn in converted.document["turns"]]


# Content parts.


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": "a.jpg", "max_pixels": 50176},
        {"type": "image", "path": "a.jpg"},
        {"type": "image", "url": "file://a.jpg"},
        {"type": "image", "image": "file://IMAGES/a.jpg"},
        {"type": "image_url", "image_url": {"url": "DATA", "detail": "low"}},
        {"type": "image_url", "image_url": "DATA"},
        {"type": "input_image", "image_url": "DATA"},
        {"image": "a.jpg"},
        {"type": "image", "image": "a.jpg", "text": None, "video": None},
    ],
)
def test_a_picture_part_is_read_in_every_spelling(tmp_path, images, part):
    data = b64encode((images / "a.jpg").read_bytes()).decode()
    text = json.dumps(part).replace("IMAGES", str(images.resolve()))
    part = json.loads(text.replace("DATA", f"data:image/jpeg;base64,{data}"))
    asked = {"role": "user", "content": [part, {"type": "text", "text": "What?"}]}
    converted = convert_lines(tmp_path, "jsonl", {"messages": [asked, SAID]})
    assert converted.rejects == []
    assert contents(converted)[0] == SHOWN
    assert converted.samples[0].files == {"m0000.jpg": (images / "a.jpg").read_bytes()}


def test_an_option_of_a_part_is_kept(tmp_path, images):
    asked = {"role": "user", "content": [{"type": "image", "image": "a.jpg", "max_pixels": 9}]}
    document = convert_lines(tmp_path, "jsonl", {"messages": [asked, SAID]}).document
    assert document["meta"]["raw"]["messages"] == [{"content": [{"max_pixels": 9}]}, {}]


def test_parts_without_a_name_take_the_pictures_of_the_list_in_order(tmp_path, images):
    parts = [{"type": "image"}, {"type": "text", "text": "and"}, {"type": "image"}]
    record = {"images": ["a.jpg", "b.jpg"], "messages": [{"role": "user", "content": parts}, SAID]}
    converted = convert_lines(tmp_path, "jsonl", record)
    assert contents(converted)[0] == [{"media": 0}, {"text": "and"}, {"media": 1}]
    short = convert_lines(tmp_path / "2", "jsonl", {**record, "images": []})
    assert (short.reject["code"], "parts of type image" in short.reject["message"]) == (
        "E305",
        True,
    )


def test_a_message_may_name_its_own_pictures(tmp_path, images):
    asked = {"role": "user", "content": "What?", "images": ["a.jpg"]}
    converted = convert_lines(tmp_path, "jsonl", {"messages": [asked, SAID]})
    assert contents(converted)[0] == SHOWN


@pytest.mark.parametrize("url", ["data:image/jpeg,abc", "data:image/jpeg;base64,?", "data:"])
def test_a_data_url_that_cannot_be_read_is_rejected(tmp_path, images, url):
    reject = convert_lines(tmp_path, "jsonl", {"image": url, "text": "An owl."}).reject
    assert (reject["code"], "not a readable data url" in reject["message"]) == ("E302", True)


# What is learned.


@pytest.mark.parametrize(
    ("flags", "written"),
    [
        ({"loss": False}, {"loss": False}),
        ({"loss": True}, {"loss": True}),
        ({"loss": 0}, {"loss": False}),
        ({"loss": None}, {}),
        ({"train": False}, {"loss": False}),
        ({"weight": 0}, {"weight": 0.0}),
        ({"loss_scale": 0.5}, {"weight": 0.5}),
    ],
)
def test_marks_of_what_is_learned_reach_the_turn(tmp_path, flags, written):
    asked = {"role": "user", "content": "?"}
    record = {"messages": [asked, {**SAID, **flags}, asked, SAID]}
    (_, answer, _, last) = convert_lines(tmp_path, "jsonl", record).document["turns"]
    assert {key: answer[key] for key in ("loss", "weight") if key in answer} == written
    assert last == {"role": "assistant", "content": [{"text": "An owl."}]}


def test_a_mark_of_another_type_is_rejected(tmp_path):
    record = {"messages": [{"role": "user", "content": "?"}, {**SAID, "loss": "no"}]}
    reject = convert_lines(tmp_path, "jsonl", record).reject
    assert reject["message"] == "messages[1].loss='no': use true or false."


# Questions and answers.


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"query": "<image>What?", "response": "An owl.", "images": ["a.jpg"]}, [SHOWN]),
        ({"query": "What?", "response": "An owl.", "images": ["a.jpg"]}, [SHOWN]),
        (
            {"instruction": "<image>What?", "input": "", "output": "An owl.", "image": "a.jpg"},
            [SHOWN],
        ),
        ({"prompt": "What?", "completion": "An owl.", "image_path": "a.jpg"}, [SHOWN]),
        ({"images": ["a.jpg"], "question": "What?", "answer": "An owl."}, [SHOWN]),
    ],
)
def test_questions_are_read_under_every_name(tmp_path, images, record, expected):
    converted = convert_lines(tmp_path, "jsonl", record)
    assert contents(converted) == [*expected, [{"text": "An owl."}]]


def test_earlier_questions_the_system_text_and_the_input_are_read(tmp_path, images):
    record = {"instruction": "Sure?", "input": "Say it.", "output": "Yes.", "images": ["a.jpg"]}
    record |= {"history": [["<image>What?", "An owl."]], "system": "Be brief."}
    converted = convert_lines(tmp_path, "jsonl", record)
    assert roles(converted) == ["system", "user", "assistant", "user", "assistant"]
    assert contents(converted)[1:4] == [SHOWN, [{"text": "An owl."}], [{"text": "Sure?\nSay it."}]]


def test_a_chat_of_mplug_owl_in_one_text_is_read(tmp_path, images):
    text = "The following is a conversation.\nHuman: <image>\nHuman: What?\nAI: An owl."
    record = {"image": ["a.jpg"], "text": text, "task_type": "llava_sft"}
    converted = convert_lines(tmp_path, "jsonl", record)
    assert roles(converted) == ["system", "user", "assistant"]
    assert contents(converted)[1] == [{"media": 0}, {"text": "\nWhat?"}]


# Marks.


@pytest.mark.parametrize("name", ["llava", "jsonl"])
def test_the_models_own_mark_stands_for_a_picture(tmp_path, images, name):
    turns = [{"from": "human", "value": "<|image|>What?"}, {"from": "gpt", "value": "An owl."}]
    converted = convert_lines(tmp_path, name, {"image": "a.jpg", "conversations": turns})
    assert contents(converted)[0] == SHOWN


def test_an_image_mark_stands_for_the_video_of_a_record_without_pictures(tmp_path, images):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "It flies."}]
    record = {"video": "film", "conversations": turns}
    converted = convert_lines(tmp_path, "sharegpt4video", record)
    assert contents(converted)[0] == [{"media": 0}, {"text": "\nWhat?"}]
    both = convert_lines(tmp_path / "2", "sharegpt4video", record | {"image": "a.jpg"})
    assert both.reject["code"] == "E302"  # there are no images: never taken for the video's mark


def test_a_backslash_keeps_the_word_for_a_picture(tmp_path, images):
    record = {"images": ["a.jpg"], "text": r"The \<image> tag: <image>"}
    converted = convert_lines(tmp_path, "jsonl", record)
    assert contents(converted) == [[{"text": "The <\u200bimage> tag: "}, {"media": 0}]]


@pytest.mark.parametrize("text", ["Of <image> and <video>.", "Of <video>."])
def test_a_mark_without_its_medium_is_a_word_only_by_option(tmp_path, text):
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "Tags."}]
    rejected = convert_lines(tmp_path / "1", "llava", {"conversations": turns})
    assert rejected.reject["code"] == "E305"
    kept = convert_lines(tmp_path / "2", "llava", {"conversations": turns}, escape=True)
    assert contents(kept)[0] == [{"text": text.replace("<image>", "<\u200bimage>")}]


def test_a_document_of_parts_may_speak_of_the_word(tmp_path, images):
    parts = [{"type": "text", "text": "The <image> tag."}, {"type": "image", "image": "a.jpg"}]
    converted = convert_lines(tmp_path, "jsonl", {"content": parts}, escape=True)
    assert contents(converted) == [[{"text": "The <\u200bimage> tag."}, {"media": 0}]]


def test_media_of_a_chat_without_marks_come_first_only_by_option(tmp_path, images):
    record = {"image": "a.jpg", "messages": [{"role": "user", "content": "What?"}, SAID]}
    reject = convert_lines(tmp_path / "1", "jsonl", record).reject
    assert "--images was not given" in reject["message"]
    write_pictures(tmp_path / "2/images", "a.jpg")
    reject = convert_lines(tmp_path / "2", "jsonl", record).reject
    assert (reject["code"], "--media-first" in reject["message"]) == ("E305", True)
    write_pictures(tmp_path / "3/images", "a.jpg")
    assert contents(convert_lines(tmp_path / "3", "jsonl", record, media_first=True))[0] == SHOWN


# Nothing silently blind.


@pytest.mark.parametrize(
    "record",
    [
        {"photo": "a.jpg", "text": "An owl."},
        {"image_1": "a.jpg", "question": "What?", "answer": "An owl."},
        {"input_image": {"bytes": "", "path": "a.jpg"}, "text": "An owl."},
        {"picture_url": "https://owls/1", "text": "An owl."},
        {"source": "owls/a.PNG", "text": "An owl."},
        {"scan": "A" * 100, "img_b64": "A" * 100, "text": "An owl."},
        {"messages": [{"role": "user", "content": "?", "screenshot": "a.png"}, SAID]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "?", "img": "a.png"}]}
            ]
        },
        {"videos": ["gone.mp4"], "messages": [ASKED, SAID]},
        {"clip": "a.mp4", "images": ["a.jpg"], "messages": [ASKED, SAID]},
    ],
)
def test_a_record_whose_picture_nobody_reads_is_rejected(tmp_path, images, record):
    reject = convert_lines(tmp_path, "jsonl", record).reject
    assert reject["code"] in ("E302", "E305")
    if reject["code"] == "E305":
        assert "--map" in reject["message"]
        assert "--ignore-field" in reject["message"]


@pytest.mark.parametrize(
    "extra",
    [
        {"image_id": "000017"},
        {"image_caption": "An owl at night."},
        {"num_frames": "16"},
        {"has_image": "no"},
        {"picture": "An owl on a branch"},
        {"url": "https://owls/page.html"},
        {"file_name": "owls.py"},
    ],
)
def test_other_fields_are_kept_and_do_not_look_like_pictures(tmp_path, extra):
    document = convert_lines(tmp_path, "jsonl", {"question": "?", "answer": "!"} | extra).document
    assert document["meta"]["raw"] == {"turns": [extra]}


def test_beside_pictures_a_file_name_or_url_says_where_they_came_from(tmp_path, images):
    extra = {"image_url": "https://owls/a.jpg", "file_name": "a.jpg", "source": "coco/1.jpg"}
    document = convert_lines(tmp_path, "jsonl", {"image": "a.jpg", "text": "x"} | extra).document
    assert document["meta"]["raw"] == extra


def test_a_field_can_be_mapped_or_ignored(tmp_path, images):
    record = {"photo": "a.jpg", "said": "An owl."}
    mapped = convert_lines(
        tmp_path / "1", "jsonl", record, field_map={"image": "photo", "text": "said"}
    )
    assert mapped.reject["code"] == "E302"  # read as a picture; there is no folder of them
    write_pictures(tmp_path / "2/images", "a.jpg")
    mapped = convert_lines(
        tmp_path / "2", "jsonl", record, field_map={"image": "photo", "text": "said"}
    )
    assert contents(mapped) == [[{"media": 0}, {"text": "An owl."}]]
    ignored = convert_lines(
        tmp_path / "3", "jsonl", record, field_map={"text": "said"}, ignore_fields=("photo",)
    )
    assert contents(ignored) == [[{"text": "An owl."}]]


def test_the_message_tells_a_video_from_a_picture(tmp_path, images):
    for field, value, kind in (("file_name", "a.mp4", "videos"), ("scan", "a.png", "images")):
        reject = convert_lines(tmp_path / field, "jsonl", {field: value, "text": "x"}).reject
        assert f"--map {kind}={field}" in reject["message"]


def test_two_fields_that_fit_are_named(tmp_path, images):
    record = {"image": "a.jpg", "images": ["b.jpg"], "text": "An owl."}
    reject = convert_lines(tmp_path, "jsonl", record).reject
    assert "images and image both name media" in reject["message"]


def test_the_report_says_which_layouts_were_read(tmp_path):
    records = [{"text": "An owl."}, {"question": "?", "answer": "!"}, {"text": "Two."}]
    report = convert_lines(tmp_path, "jsonl", *records).report
    assert report.layouts == {"text": 2, "question + answer": 1}


# Tables.


@pytest.mark.parametrize(
    "row",
    [
        {
            "id": "1",
            "image": "PICTURE",
            "conversations": [
                {"from": "human", "value": "<image>What?"},
                {"from": "gpt", "value": "An owl."},
            ],
        },
        {"messages": [ASKED, SAID], "images": ["PICTURE"]},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"index": 0, "text": None, "type": "image"},
                        {"index": None, "text": "What?", "type": "text"},
                    ],
                },
                {"role": "assistant", "content": [{"type": "text", "text": "An owl."}]},
            ],
            "images": ["PICTURE"],
        },
        {"image": "PICTURE", "question": "What?", "answer": "An owl."},
    ],
)
def test_tables_of_chats_are_read(tmp_path, row):
    pytest.importorskip("pyarrow", reason="pyarrow is optional (extra `data`)")
    stored = {"bytes": picture(seed=1), "path": "a.jpg"}
    for name in ("image", "images"):
        if name in row:
            row = row | {name: stored if row[name] == "PICTURE" else [stored]}
    converted = run_job(make_job(tmp_path, "parquet", write_table(tmp_path, [row])))
    assert converted.rejects == []
    assert contents(converted) == [SHOWN, [{"text": "An owl."}]]
    assert list(converted.samples[0].files.values()) == [stored["bytes"]]


@pytest.mark.parametrize("image", [{"bytes": None, "path": "a.jpg"}, "a.jpg"])
def test_tables_of_captions_whose_pictures_are_paths_are_read(tmp_path, images, image):
    pytest.importorskip("pyarrow", reason="pyarrow is optional (extra `data`)")
    table = write_table(tmp_path, [{"image": image, "text": "An owl."}])
    converted = run_job(make_job(tmp_path, "parquet", table))
    assert contents(converted) == [[{"media": 0}, {"text": "An owl."}]]
