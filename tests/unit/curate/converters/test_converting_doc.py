# SPDX-License-Identifier: Apache-2.0
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from owl.curate.converters.formats.registry import FORMATS
from owl.curate.converters.job import ConvertJob
from owl.curate.converters.pictures import SourceFolder
from owl.curate.converters.prompt_endings import PromptEnding
from owl.curate.converters.records import ConvertOptions, MissingPictures
from owl.curate.converters.video.video_frames import NAME, VideoClips, video_format
from owl.curate.tools import conversion
from tests.unit.curate.converters.converting import (
    convert_lines,
    make_job,
    run_job,
    write_lines,
    write_pictures,
)
from tests.unit.curate.converters.formats.test_captions import write_tar
from tests.unit.curate.converters.formats.test_parquet import write_table
from tests.unit.curate.converters.test_video import write_video
from tests.unit.data.shard_factory import picture

DOC = (Path(__file__).parents[4] / "docs/converting.md").read_text(encoding="utf-8")


def block(name):
    (text,) = re.findall(rf"```json {name}\n(.*?)```", DOC, re.DOTALL)
    return json.loads(text)


def assert_as_documented(converted, name):
    assert converted.rejects == []
    document = dict(converted.document)
    assert document.pop("schema") == "owl3-sample/1"
    assert document == block(f"sample-{name}")


@pytest.mark.parametrize(
    ("name", "pictures", "options"),
    [
        ("llava", ["coco/17.jpg"], {}),
        ("m4", ["a.jpg", "b.jpg"], {"prompt_ending": PromptEnding.by_question_type}),
        ("mmc4", ["b9.jpg"], {}),
        ("sharegpt4video", ["panda/v1/1.jpg", "panda/v1/2.jpg"], {}),
        ("jsonl", ["a.jpg"], {}),
    ],
)
def test_the_examples_of_the_json_formats_hold(tmp_path, name, pictures, options):
    write_pictures(tmp_path / "images", *pictures)
    converted = convert_lines(tmp_path, name, block(f"source-{name}"), **options)
    assert_as_documented(converted, name)


def test_the_example_of_obelics_holds(tmp_path):
    write_pictures(tmp_path / "images", "00000/000000001.jpg")
    converted = convert_lines(
        tmp_path,
        "obelics",
        block("source-obelics"),
        url_map=write_lines(tmp_path, block("url-map"), name="urls.jsonl"),
        missing_pictures=MissingPictures.leave_out,
    )
    assert_as_documented(converted, "obelics")


def test_the_example_of_captions_holds(tmp_path):
    details = json.dumps(block("sample-captions")["meta"]["raw"]["json"])
    members = {"jpg": picture(), "txt": b"An owl.", "json": details.encode()}
    named = [(f"000000017.{suffix}", data) for suffix, data in members.items()]
    source = write_tar(tmp_path / "00000.tar", named)
    assert_as_documented(run_job(make_job(tmp_path, "captions", source)), "captions")


def test_the_example_of_parquet_holds(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is optional (extra `data`)")
    row = block("source-parquet")
    row["images"][0]["bytes"] = picture()
    job = make_job(tmp_path, "parquet", write_table(tmp_path, [row]), cut="on")
    assert_as_documented(run_job(job), "parquet")


def test_the_example_of_video_files_holds(tmp_path):
    pytest.importorskip("av", reason="PyAV is optional (extra `video`)")
    write_video(tmp_path / "videos/a.mp4")
    job = ConvertJob(
        format=video_format(VideoClips(folder=SourceFolder(tmp_path / "videos"))),
        input=write_lines(tmp_path / "in", block("source-video")),
        images=None,
        output=tmp_path / "shards",
        name=NAME,
        options=ConvertOptions(),
    )
    assert_as_documented(run_job(job), "video")


@pytest.mark.parametrize(
    ("name", "page", "source"),
    [
        ("csv", "table.csv", "table.csv"),
        ("imagefolder", "folder/train/metadata.csv", "folder"),
        ("pages", "book/ch/one.md", "book"),
    ],
)
def test_the_examples_of_folders_and_tables_hold(tmp_path, name, page, source, capsys):
    write_pictures(tmp_path, "images/a.jpg", "folder/train/a.jpg", "book/ch/img/a.jpg")
    (tmp_path / page).write_text(text_block(f"source-{name}"))
    job = make_job(tmp_path, name, tmp_path / source)
    if name == "csv":
        assert_as_documented(run_job(job), name)
        return
    leave_out = {"missing_pictures": MissingPictures.leave_out} if name == "pages" else {}
    job = replace(job, images=None, options=ConvertOptions(**leave_out))
    assert_as_documented(run_job(job), name)
    if name == "pages":
        conversion.run_job(job, 1, retry_rejects=True, tool="convert")
        printed = "".join(capsys.readouterr()).replace(str(job.output), "shards")
        assert set(block_after(name).splitlines()) <= set(printed.splitlines())


def text_block(name):
    (text,) = re.findall(rf"```text {name}\n(.*?)```", DOC, re.DOTALL)
    return text


def block_after(name):
    """What the tool prints, by the block that follows the sample of a format."""
    return re.findall(r"```\n(wrote.*?)\n```", DOC[DOC.index(f"sample-{name}") :], re.DOTALL)[0]


def test_every_format_has_an_example():
    assert all(f"```json sample-{name}\n" in DOC for name in FORMATS)
