# SPDX-License-Identifier: Apache-2.0
import pytest

from owl.curate.converters.prompt_endings import WORDING, PromptEnding
from owl.curate.converters.records import ConvertError, MissingPictures
from tests.unit.curate.converters.converting import (
    convert_all,
    convert_lines,
    write_lines,
    write_pictures,
)
from tests.unit.data.shard_factory import picture

# M4.

M4 = {
    "sample_id": "nlvr2_1",
    "image": ["a.jpg", "b.jpg"],
    "choice_list": ["yes", "no"],
    "metadata": {"dataset": "NLVR2", "question_type": "multi-choice"},
    "conversations": [
        {"from": "human", "value": "Left <image> right <image> same?"},
        {"from": "gpt", "value": "no"},
    ],
}


def test_m4_keeps_choices_and_metadata(tmp_path):
    write_pictures(tmp_path / "images", "a.jpg", "b.jpg")
    document = convert_all(tmp_path, "m4", M4).document
    assert document["id"] == "nlvr2_1"
    assert document["meta"]["raw"]["choice_list"] == ["yes", "no"]


def test_m4_takes_no_single_picture_as_a_string(tmp_path):
    write_pictures(tmp_path / "images", "a.jpg")
    reject = convert_lines(tmp_path, "m4", M4 | {"image": "a.jpg"}).reject
    assert (reject["code"], "must be a list" in reject["message"]) == ("E203", True)


def test_m4_ends_the_questions_that_call_themselves_multiple_choice(tmp_path):
    write_pictures(tmp_path / "images", "a.jpg", "b.jpg")
    open_ended = M4 | {"metadata": {"question_type": "open-ended"}}
    converted = convert_all(
        tmp_path, "m4", M4, open_ended, prompt_ending=PromptEnding.by_question_type
    )
    ends = [sample.document["turns"][0]["content"][-1]["text"] for sample in converted.samples]
    assert ends == [WORDING[PromptEnding.multiple_choice], " same?"]


# OBELICS.

OBELICS = {
    "images": [None, "a.jpg", None, "b.jpg"],
    "texts": ["An owl:", None, "\n\nIt hoots. ", None],
    "metadata": '[null, {"alt_text": "owl"}, null, {}]',
    "general_metadata": '{"url": "https://owls"}',
}


def test_obelics_keeps_the_order(tmp_path):
    write_pictures(tmp_path / "images", "a.jpg", "b.jpg")
    document = convert_all(tmp_path, "obelics", OBELICS).document
    assert document["kind"] == "document"
    assert document["turns"][0]["content"] == [
        {"text": "An owl:"},
        {"media": 0},
        {"text": "\n\nIt hoots. "},
        {"media": 1},
    ]


def test_obelics_finds_urls_through_the_map(tmp_path):
    write_pictures(tmp_path / "images", "0/1.jpg")
    urls = write_lines(tmp_path, {"url": "https://owls/1", "file": "0/1.jpg"}, name="urls.jsonl")
    record = {"images": ["https://owls/1", None], "texts": [None, "An owl."]}
    document = convert_all(tmp_path, "obelics", record, url_map=urls).document
    assert document["media"][0]["uri"] == "https://owls/1"


def test_a_url_without_a_map_is_rejected(tmp_path):
    write_pictures(tmp_path / "images", "a.jpg")
    record = {"images": ["https://owls/1", None], "texts": [None, "An owl."]}
    reject = convert_lines(tmp_path, "obelics", record).reject
    assert (reject["code"], "--url-map" in reject["message"]) == ("E302", True)


def test_a_dead_picture_can_be_left_out_and_is_named(tmp_path):
    write_pictures(tmp_path / "images", "b.jpg")
    converted = convert_all(
        tmp_path, "obelics", OBELICS, missing_pictures=MissingPictures.leave_out
    )
    assert [part.get("media") for part in converted.document["turns"][0]["content"]] == [
        None,
        None,
        0,
    ]
    assert converted.document["meta"]["left_out"] == ["a.jpg"]


def test_a_broken_url_map_stops_the_run_and_blames_no_record(tmp_path):
    write_pictures(tmp_path / "images", "a.jpg")
    urls = write_lines(tmp_path, {"url": "https://owls/1"}, name="urls.jsonl")
    with pytest.raises(ConvertError, match=r"--url-map .*urls\.jsonl, line 1: .*file is missing"):
        convert_lines(tmp_path, "obelics", OBELICS, url_map=urls)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"images": [None]}, "E305", "images has 1 entries but texts 4"),
        ({"images": [None, "a.jpg", "b.jpg", None]}, "E305", "place 2 has both a picture and text"),
        ({"images": [None, "a.jpg", None, 7]}, "E203", "images[3]=7"),
        ({"texts": "An owl."}, "E203", "texts='An owl.' must be a list"),
    ],
)
def test_obelics_lists_that_do_not_match_are_rejected(tmp_path, change, code, words):
    write_pictures(tmp_path / "images", "a.jpg", "b.jpg")
    reject = convert_lines(tmp_path, "obelics", OBELICS | change).reject
    assert reject["code"] == code
    assert words in reject["message"]


def test_the_mark_between_pages_of_obelics_is_not_learned(tmp_path):
    text = "One.\n\nEND_OF_DOCUMENT_TOKEN_TO_BE_REPLACED\n\nTwo."
    document = convert_lines(tmp_path, "obelics", {"images": [None], "texts": [text]}).document
    assert document["turns"][0]["content"] == [{"text": "One.\n\nTwo."}]


# MMC4.

MMC4 = {
    "url": "https://owls",
    "text_list": ["Owls.", "They hoot.", "At night."],
    "image_info": [
        {"image_name": "b.jpg", "matched_text_index": 2, "matched_sim": 0.25, "raw_url": "x"},
        {"image_name": "a.jpg", "matched_text_index": 0, "matched_sim": 0.5},
        {"image_name": "c.jpg", "matched_text_index": 2, "matched_sim": 0.125},
    ],
    "similarity_matrix": [[0.1, 0.2, 0.25], [0.5, 0.1, 0.1], [0, 0, 0.125]],
}


def test_mmc4_shows_each_picture_before_its_sentence(tmp_path):
    write_pictures(tmp_path / "images", "a.jpg", "b.jpg", "c.jpg")
    document = convert_all(tmp_path, "mmc4", MMC4).document
    shown = [
        document["media"][part["media"]]["uri"] if "media" in part else part["text"]
        for part in document["turns"][0]["content"]
    ]
    assert shown == ["a.jpg", "Owls.", " They hoot.", "b.jpg", "c.jpg", " At night."]


def test_mmc4_can_leave_a_dead_picture_out(tmp_path):
    write_pictures(tmp_path / "images", "a.jpg", "c.jpg")
    converted = convert_all(tmp_path, "mmc4", MMC4, missing_pictures=MissingPictures.leave_out)
    assert [media["uri"] for media in converted.document["media"]] == ["a.jpg", "c.jpg"]
    assert converted.document["meta"]["left_out"] == ["b.jpg"]


def test_mmc4_rejects_a_sentence_that_does_not_exist(tmp_path):
    write_pictures(tmp_path / "images", "a.jpg")
    info = [{"image_name": "a.jpg", "matched_text_index": 3}]
    reject = convert_lines(tmp_path, "mmc4", MMC4 | {"image_info": info}).reject
    assert reject["code"] == "E305"
    assert "image_info[0].matched_text_index=3" in reject["message"]


# ShareGPT4Video.


def clip(**fields):
    turns = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "An owl."}]
    return {"id": "v1", "conversations": turns} | fields


def test_a_video_is_its_folder_of_frames_in_the_order_of_their_numbers(tmp_path):
    write_pictures(tmp_path / "images", "v/1.jpg", "v/2.jpg", "v/10.jpg")
    (sample,) = convert_all(tmp_path, "sharegpt4video", clip(video="v.mp4")).samples
    media = sample.document["media"][0]
    assert media["files"] == ["m0000.f0000.jpg", "m0000.f0001.jpg", "m0000.f0002.jpg"]
    last = (tmp_path / "images/v/10.jpg").read_bytes()
    assert sample.files["m0000.f0002.jpg"] == last
    assert sample.document["turns"][0]["content"] == [{"media": 0}, {"text": "\nWhat?"}]


def test_a_caption_record_teaches_the_caption_of_the_whole_video(tmp_path):
    write_pictures(tmp_path / "images", "v1/1.jpg")
    record = {
        "video_id": "v1",
        "captions": [{"idx": "0", "content": "A wing."}, {"idx": "-1", "content": "An owl."}],
    }
    document = convert_all(tmp_path, "sharegpt4video", record).document
    assert document["turns"][0]["content"] == [{"media": 0}, {"text": "An owl."}]


@pytest.mark.parametrize(
    ("record", "code", "words"),
    [
        (clip(video="film.mp4"), "E313", "owl data video-frames"),
        (clip(video="gone.mp4"), "E302", "not a folder"),
        (clip(video="empty"), "E312", "has no frames"),
        (clip(video="uneven"), "E312", "'uneven/2.jpg' is 64x200"),
        (clip(), "E305", "more <video> than the 0 media"),
        ({"video_id": "v", "captions": []}, "E203", "none of the 0 captions"),
        ({"video": "v"}, "E203", "neither conversations nor captions"),
    ],
)
def test_a_video_without_frames_is_rejected(tmp_path, record, code, words):
    images = write_pictures(tmp_path / "images", "film.mp4", "v/1.jpg")
    (images / "empty").mkdir()
    write_pictures(images, "uneven/1.jpg")
    (images / "uneven/2.jpg").write_bytes(picture(64, 200))
    reject = convert_lines(tmp_path, "sharegpt4video", record).reject
    assert reject["code"] == code
    assert words in reject["message"]


# Own jsonl.


def message(role, content, **extra):
    return {"role": role, "content": content} | extra


JSONL = [
    {
        "images": ["a.jpg"],
        "id": 7,
        "messages": [
            message("system", "Be brief."),
            message("user", "<image>What?"),
            message("assistant", "An owl.", score=1),
        ],
    },
    {
        "messages": [
            message(
                "user", [{"type": "text", "text": "Look: "}, {"type": "image", "image": "b.jpg"}]
            ),
            message("assistant", "An owl."),
        ],
    },
    {"image": "a.jpg", "question": "What?", "answer": "An owl.", "category": ["x"]},
    {"image": ["a.jpg", "b.jpg"], "question": "Same?", "answer": "No."},
    {"question": "Why?", "answer": "Why not."},
    {"images": "a.jpg", "text": "An owl: <image>\n"},
    {"text": "Plain."},
]


def test_every_layout_of_own_data_is_kept(tmp_path):
    write_pictures(tmp_path / "images", "a.jpg", "b.jpg")
    samples = convert_all(tmp_path, "jsonl", *JSONL).samples
    contents = [[turn["content"] for turn in s.document["turns"]] for s in samples]
    what, owl = [{"media": 0}, {"text": "What?"}], [{"text": "An owl."}]
    assert contents == [
        [[{"text": "Be brief."}], what, owl],
        [[{"text": "Look: "}, {"media": 0}], owl],
        [what, owl],
        [[{"media": 0}, {"media": 1}, {"text": "Same?"}], [{"text": "No."}]],
        [[{"text": "Why?"}], [{"text": "Why not."}]],
        [[{"text": "An owl: "}, {"media": 0}, {"text": "\n"}]],
        [[{"text": "Plain."}]],
    ]
    assert samples[0].document["meta"]["raw"] == {"id": 7, "messages": [{}, {}, {"score": 1}]}


def test_lines_that_agree_in_a_field_become_one_conversation(tmp_path):
    write_pictures(tmp_path / "images", "a.jpg", "b.jpg")
    asked = [
        {"image": image, "question": question, "answer": "!", "number": number}
        for number, (image, question) in enumerate(
            [("a.jpg", "1?"), ("b.jpg", "2?"), ("b.jpg", "3?"), ("a.jpg", "4?")]
        )
    ]
    converted = convert_lines(tmp_path, "jsonl", *asked, turns_of="image")
    assert [len(sample.document["turns"]) for sample in converted.samples] == [2, 4, 2]
    raw = [sample.document["meta"]["raw"]["turns"] for sample in converted.samples]
    assert [[turn["number"] for turn in turns] for turns in raw] == [[0], [1, 2], [3]]
    shown = [len(turn["content"]) for turn in converted.samples[1].document["turns"]]
    assert shown == [2, 1, 1, 1]  # the picture once, before the first question


@pytest.mark.parametrize(
    ("record", "code", "words"),
    [
        ({"prompt": "?"}, "E203", "exactly one of messages, conversations"),
        ({"question": "?", "text": "!", "answer": "!"}, "E203", "--ignore-field FIELD"),
        ({"question": "?"}, "E203", "question + answer"),
        ({"messages": [message("tool", "?")]}, "E203", "messages[0].role='tool'"),
        ({"messages": [message("user", 7)]}, "E203", "messages[0].content=7"),
        ({"messages": [message("user", [{"type": "audio"}])]}, "E203", "content[0]"),
        ({"text": "<image>"}, "E305", "more <image> than the 0 media"),
        ({"text": "no mark", "images": ["a.jpg"]}, "E305", "1 media but only 0"),
    ],
)
def test_own_data_of_no_layout_is_rejected(tmp_path, record, code, words):
    write_pictures(tmp_path / "images", "a.jpg")
    reject = convert_lines(tmp_path, "jsonl", record).reject
    assert reject["code"] == code
    assert words in reject["message"]


def test_turns_over_different_pictures_are_not_joined(tmp_path):
    write_pictures(tmp_path / "images", "a.jpg", "b.jpg")
    asked = [
        {"image": image, "question": "?", "answer": "!", "talk": 1} for image in ("a.jpg", "b.jpg")
    ]
    reject = convert_lines(tmp_path, "jsonl", *asked, turns_of="talk").reject
    assert (reject["code"], reject["line"]) == ("E305", 1)
