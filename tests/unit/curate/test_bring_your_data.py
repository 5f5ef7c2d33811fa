# SPDX-License-Identifier: Apache-2.0
"""Each row of docs/bring_your_data.md, from a source record to what training sees."""

import base64
import gzip
import json
import re
import shlex
from pathlib import Path

import pytest

from owl.curate.prepare import prepare_folder
from owl.curate.tools import convert, video_frames
from owl.data.encode.encoder import SampleEncoder
from owl.data.encode.tokenizer import load_tokenizer
from owl.data.shards.dataset import Dataset
from owl.data.shown import CutChoice
from owl.families.owl3.reading import Owl3Reading
from tests.unit.curate.converters.converting import write_lines, write_pictures
from tests.unit.curate.converters.formats.test_captions import write_tar
from tests.unit.curate.converters.test_video import (
    VARYING,
    write_animation,
    write_timed,
    write_video,
)
from tests.unit.data.encode.test_encoder import readable
from tests.unit.data.shard_factory import IMAGE_SIZE, picture, write_tokenizer

DOC = (Path(__file__).parents[3] / "docs/bring_your_data.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| \*\*(.*?)\*\*.*\| `(owl data .*)` \|$", DOC, re.MULTILINE))

ASKED = [("human", "<image>\nWhat?"), ("gpt", "An owl.")]
CHAT = "U:*\nWhat? A:[An owl.]"
"""What training sees of it: a star for each picture, what is learned in brackets."""


def said(*pairs, speaker="from", text="value"):
    return [{speaker: who, text: what} for who, what in pairs]


def messages(*pairs):
    return said(*pairs, speaker="role", text="content")


def lines(*records, name="source.jsonl"):
    """Write json lines, and the pictures a.jpg and b.jpg."""

    def make(folder):
        write_pictures(folder / "images", "a.jpg", "b.jpg")
        write_lines(folder, *records, name=name)

    return make


def array(*records):
    def make(folder):
        write_pictures(folder / "images", "a.jpg", "b.jpg")
        (folder / "source.json").write_text(json.dumps(records))

    return make


def parts(*content):
    return {
        "messages": messages(("user", list(content)), ("assistant", "An owl.")),
    }


def packed(folder):
    text = json.dumps({"text": "Owls hoot."})
    (folder / "source.jsonl.gz").write_bytes(gzip.compress(text.encode()))


def linked(folder):
    write_pictures(folder / "disk", "a.jpg")
    (folder / "images").symlink_to(folder / "disk")
    (folder / "disk/a.jpg").rename(folder / "elsewhere.jpg")
    (folder / "disk/a.jpg").symlink_to(folder / "elsewhere.jpg")
    write_lines(folder, {"image": "a.jpg", "text": "An owl."})


def tars(**members):
    def make(folder):
        (folder / "tars").mkdir()
        named = [("1.jpg", picture()), *((f"1.{kind}", data) for kind, data in members.items())]
        write_tar(folder / "tars/00000.tar", named)

    return make


def stored(seed=0):
    return {"bytes": picture(seed=seed), "path": None}


def table(row, kind="parquet"):
    def make(folder):
        pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is optional (extra `data`)")
        from pyarrow import parquet

        (folder / "tables").mkdir()
        rows = pyarrow.Table.from_pylist([row])
        if kind == "parquet":
            parquet.write_table(rows, folder / "tables/train.parquet")
        else:
            with pyarrow.ipc.new_stream(str(folder / "tables/a.arrow"), rows.schema) as writer:
                writer.write_table(rows)

    return make


def spreadsheet(folder):
    write_pictures(folder / "images", "a.jpg")
    (folder / "source.csv").write_text("image;question;answer\na.jpg;What?;An owl.\n")


def image_folder(folder):
    write_pictures(folder / "folder/train", "a.jpg")
    (folder / "folder/train/metadata.csv").write_text("file_name,text\na.jpg,An owl.\n")


def obelics(folder):
    lines({"images": [None, "https://a/1", "https://a/2"], "texts": ["Owls: ", None, None]})(folder)
    write_lines(folder, {"url": "https://a/1", "file": "a.jpg"}, name="urls.jsonl")


def page(name, text):
    def make(folder):
        write_pictures(folder / "book/img", "a.jpg")
        (folder / "book" / name).write_text(text)

    return make


def frames(folder):
    write_pictures(folder / "frames/v", "1.jpg", "2.jpg")
    record = {"video": "v.mp4", "conversations": said(("human", "<video>\nWhat?"), ASKED[1])}
    (folder / "source.json").write_text(json.dumps([record]))


def videos(write, record, name="source.jsonl"):
    def make(folder):
        pytest.importorskip("av", reason="PyAV is optional (extra `video`)")
        write(folder / "videos")
        text = json.dumps(record if name.endswith("l") else [record])
        (folder / name).write_text(text)

    return make


def video(folder):
    write_video(folder / "a.mp4", frames=30)  # three seconds


DATA_URL = f"data:image/jpeg;base64,{base64.b64encode(picture()).decode()}"
SEGMENTS = [{"start": 0, "end": 1, "text": "It sits."}, {"start": 1, "end": 3, "text": "It flies."}]

CASES = {
    "LLaVA": (array({"image": "a.jpg", "conversations": said(*ASKED)}), CHAT),
    "M4-Instruct": (
        array(
            {
                "sample_id": "1",
                "metadata": {"dataset": "x", "question_type": "open-ended"},
                "image": ["a.jpg", "b.jpg"],
                "conversations": said(("human", "<image> or <image>?"), ("gpt", "Both.")),
            }
        ),
        "U:* or *? A:[Both.]",
    ),
    "ms-swift messages": (
        lines(
            {
                "images": ["a.jpg"],
                "messages": messages(("user", "<image>\nWhat?"), ("assistant", "An owl.")),
            }
        ),
        CHAT,
    ),
    "ms-swift query": (
        lines(
            {"query": "Sure?", "response": "Yes.", "history": [["<image>?", "An owl."]]}
            | {"images": ["a.jpg"]}
        ),
        "U:*? A:[An owl.] U:Sure? A:[Yes.]",
    ),
    "LLaMA-Factory": (array({"images": ["a.jpg"], "conversations": said(*ASKED)}), CHAT),
    "alpaca": (
        array({"instruction": "Name it.", "input": "It hoots.", "output": "An owl."}),
        "U:Name it.\nIt hoots. A:[An owl.]",
    ),
    "OpenAI": (
        lines(
            parts(
                {"type": "image_url", "image_url": {"url": DATA_URL}},
                {"type": "text", "text": "What?"},
            )
        ),
        "U:*What? A:[An owl.]",
    ),
    "Qwen": (
        lines(
            parts(
                {"type": "image", "image": "file://a.jpg", "max_pixels": 1000},
                {"type": "text", "text": "What?"},
            )
        ),
        "U:*What? A:[An owl.]",
    ),
    "TRL": (
        lines(
            parts({"type": "image"}, {"type": "text", "text": "What?"}) | {"images": ["a.jpg"]},
        ),
        "U:*What? A:[An owl.]",
    ),
    "mPLUG-Owl": (
        lines(
            {
                "image": ["a.jpg"],
                "text": "Human: <|image|>\nHuman: What?\nAI: An owl.",
                "task_type": "gpt4instruct_sft",
            }
        ),
        CHAT,
    ),
    "questions one a line": (
        lines(
            {"image": "a.jpg", "question": "What?", "answer": "An owl."},
            {"image": "a.jpg", "question": "Sure?", "answer": "Yes."},
        ),
        "U:*What? A:[An owl.] U:Sure? A:[Yes.]",
    ),
    "captions in json": (lines({"image": "a.jpg", "text": "An owl."}), "*[An owl.]"),
    "fields of other names": (lines({"photo": "a.jpg", "description": "An owl."}), "*[An owl.]"),
    "chats without marks": (
        lines(
            {"image": "a.jpg", "messages": messages(("user", "What?"), ("assistant", "An owl."))}
        ),
        "U:*What? A:[An owl.]",
    ),
    "short answers": (
        lines({"image": "a.jpg", "question": "What?", "answer": "Owl."}),
        "U:*What?\nAnswer the question using a single word or phrase. A:[Owl.]",
    ),
    "plain text": (packed, "[Owls hoot.]"),
    "pictures on another disk": (linked, "*[An owl.]"),
    "img2dataset": (tars(txt=b"An owl.", json=b'{"width": 20}'), "*[An owl.]"),
    "webdataset": (tars(json=b'{"blip": "An owl.", "alt": "x"}'), "*[An owl.]"),
    "VQA table": (
        table({"image": stored(), "question": "What?", "answer": "An owl."}),
        "U:*What? A:[An owl.]",
    ),
    "LLaVA-OneVision": (
        table({"id": "1", "image": stored(), "conversations": said(*ASKED), "data_source": "x"}),
        CHAT,
    ),
    "The Cauldron": (
        table(
            {
                "images": [stored(), stored(1)],
                "texts": [{"user": "Same?", "assistant": "No.", "source": "x"}],
            }
        ),
        "U:**Same? A:[No.]",
    ),
    "Hugging Face cache": (table({"image": stored(), "text": "An owl."}, "arrow"), "*[An owl.]"),
    "spreadsheet": (spreadsheet, "U:*What? A:[An owl.]"),
    "imagefolder": (image_folder, "*[An owl.]"),
    "OBELICS": (obelics, "[Owls: ]*"),
    "MMC4": (
        lines(
            {
                "text_list": ["Owls.", "They hoot."],
                "image_info": [{"image_name": "a.jpg", "matched_text_index": 1}],
            }
        ),
        "[Owls.]*[ They hoot.]",
    ),
    "markdown": (page("a.md", "Owls ![x](img/a.jpg) hoot ![y](lost.png)."), "[Owls ]*[ hoot .]"),
    "HTML": (page("a.html", "<p>Owls <img src=img/a.jpg> hoot.</p>"), "[Owls ]*[ hoot.]"),
    "ShareGPT4Video": (frames, "U:**\nWhat? A:[An owl.]"),
    "videos with captions": (
        videos(video, {"video": "a.mp4", "text": "It flies."}),
        "***[It flies.]",
    ),
    "videos with segments": (
        videos(video, {"video": "a.mp4", "segments": SEGMENTS}),
        "*[It sits.]**[It flies.]",
    ),
    "LLaVA-Video": (
        videos(video, {"video": "a.mp4", "conversations": said(*ASKED)}, "source.json"),
        "U:***\nWhat? A:[An owl.]",
    ),
    "GIFs": (
        videos(
            lambda folder: write_animation(folder / "a.gif"),
            {"video": "a.gif", "text": "It flies."},
        ),
        "*****[It flies.]",
    ),
    "screen recordings": (
        videos(
            lambda folder: write_timed(folder / "a.webm", VARYING),
            {"video": "a.webm", "text": "A click."},
        ),
        "***[A click.]",
    ),
}


def test_the_table_and_the_cases_are_the_same():
    assert list(ROWS) == list(CASES)
    assert len(ROWS) >= 20


@pytest.mark.parametrize("name", ROWS)
def test_a_row_gives_the_text_and_pictures_that_it_promises(tmp_path, monkeypatch, name, capsys):
    make, seen = CASES[name]
    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    _, _, tool, *arguments = shlex.split(ROWS[name])
    main = {"convert": convert.main, "video-frames": video_frames.main}[tool]
    assert main(arguments) == 0, capsys.readouterr().err
    assert see(tmp_path / "shards", tmp_path / "tokenizer") == (seen, seen.count("*"))


SHORTER = {
    "<|im_start|>system\n<|im_end|>\n": "",
    "<|im_end|>]\n<|im_start|>user\n": "] U:",
    "<|im_start|>user\n": "U:",
    "<|im_end|>\n<|im_start|>assistant\n": " A:",
    "<|im_end|><|endoftext|>]": "]",
    "[<|endoftext|>]": "",
    "<|endoftext|>]": "]",
    "<|image|>": "*",
}
"""Markup of the template, which other tests check, and what stands for it here."""


def see(shards: Path, tokenizer: Path) -> tuple[str, int]:
    """The text of the only sample as training reads it, and how many tiles it shows."""
    assert prepare_folder(shards) == []
    dataset = Dataset.open(shards)
    assert len(dataset) == 1
    reading = Owl3Reading("v2", IMAGE_SIZE)
    encoder = SampleEncoder(load_tokenizer(write_tokenizer(tokenizer)), reading)
    sample = encoder.encode(dataset.read(0), source="mine", cut=CutChoice.none)
    text = readable(encoder, sample)
    for written, shown in SHORTER.items():
        text = text.replace(written, shown)
    return text, len(sample.tiles)
