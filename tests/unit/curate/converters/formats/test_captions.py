# SPDX-License-Identifier: Apache-2.0
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import pytest

from owl.portable.picture_reader_owl import SUFFIXES
from tests.unit.curate.converters.converting import make_job, run_job
from tests.unit.data.shard_factory import picture


def write_tar(path: Path, members, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5
            tar.addfile(info, io.BytesIO(data))
    return path


def pair(number, *, caption=b"An owl.\n", **details):
    """The three members that img2dataset writes."""
    key = f"{number:09}"
    return [
        (f"{key}.jpg", picture(seed=number)),
        (f"{key}.txt", caption),
        (f"{key}.json", json.dumps({"key": key, "status": "success"} | details).encode()),
    ]


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_pairs_keep_caption_picture_and_details(tmp_path, layout):
    source = write_tar(tmp_path / "in/00000.tar", pair(1) + pair(2, url="x"), format=layout)
    converted = run_job(make_job(tmp_path, "captions", source))
    document = converted.samples[0].document
    assert document["turns"] == [
        {"role": "document", "content": [{"media": 0}, {"text": "An owl.\n"}]}
    ]
    assert document["meta"]["from"] == "00000.tar:1"
    for sample, number, details in zip(converted.samples, (1, 2), ({}, {"url": "x"}), strict=True):
        key = f"{number:09}"
        assert sample.files == {"m0000.jpg": picture(seed=number)}
        assert sample.document["meta"]["raw"] == {
            "key": key,
            "json": {"key": key, "status": "success"} | details,
        }


def test_a_picture_may_be_of_any_accepted_format(tmp_path):
    members = [
        (name, data)
        for number, (codec, suffixes) in enumerate(SUFFIXES.items())
        for name, data in (
            (f"{number:09}.{suffixes[-1]}", picture(codec=codec)),
            (f"{number:09}.txt", b"An owl."),
        )
    ]
    converted = run_job(make_job(tmp_path, "captions", write_tar(tmp_path / "in/0.tar", members)))
    files = [name for sample in converted.samples for name in sample.files]
    assert files == [f"m0000.{suffixes[0]}" for suffixes in SUFFIXES.values()]


def test_a_caption_alone_or_a_picture_alone_is_rejected(tmp_path):
    picture_only, text_only = pair(1)[:1], pair(2)[1:]
    source = write_tar(tmp_path / "in/0.tar", picture_only + text_only + pair(3))
    converted = run_job(make_job(tmp_path, "captions", source))
    assert [(reject["line"], reject["code"]) for reject in converted.rejects] == [
        (1, "E305"),
        (2, "E305"),
    ]
    assert converted.report.samples == 1


def test_a_pickled_member_is_named_and_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was loaded",))

    source = write_tar(tmp_path / "in/0.tar", [*pair(1), ("000000001.pkl", pickle.dumps(Bomb()))])
    converted = run_job(make_job(tmp_path, "captions", source))
    assert converted.document["meta"]["raw"]["members"] == ["pkl"]
    assert list(converted.samples[0].files) == ["m0000.jpg"]


@pytest.mark.parametrize(
    ("members", "code"),
    [
        (pair(1, caption=b""), "E204"),
        (pair(1, caption=b"\xff"), "E201"),
        ([("1.jpg", picture()[:-200]), ("1.txt", b"An owl.")], "E308"),
        ([*pair(1)[:2], ("000000001.json", b"[]")], "E203"),
        ([*pair(1), ("000000001.txt", b"Another.")], "E106"),
        ([*pair(1), ("000000001.mp4", b"film")], "E303"),
        ([*pair(1), ("000000001.mask.png", b"mask")], "E303"),
    ],
)
def test_a_bad_pair_is_rejected(tmp_path, members, code):
    source = write_tar(tmp_path / "in/0.tar", members)
    assert run_job(make_job(tmp_path, "captions", source)).reject["code"] == code


def test_samples_beside_damage_are_rejected_and_those_after_it_are_read(tmp_path):
    source = write_tar(tmp_path / "in/0.tar", [m for n in range(1, 6) for m in pair(n)])
    data = bytearray(source.read_bytes())
    data[data.index(b"000000003.jpg")] ^= 1
    source.write_bytes(data)
    converted = run_job(make_job(tmp_path, "captions", source))
    keys = [sample.document["meta"]["raw"]["key"] for sample in converted.samples]
    assert keys == ["000000001", "000000004", "000000005"]
    assert [(reject["code"], reject["line"]) for reject in converted.rejects] == [
        ("E101", 2),
        ("E101", 3),
    ]


@pytest.mark.parametrize("left", [700, 2000, 3000])
def test_a_tar_that_was_cut_off_rejects_its_last_sample(tmp_path, left):
    source = write_tar(tmp_path / "in/0.tar", pair(1) + pair(2))
    data = source.read_bytes()
    source.write_bytes(data[: data.index(b"000000002.jpg") + left])
    converted = run_job(make_job(tmp_path, "captions", source))
    assert [sample.document["meta"]["raw"]["key"] for sample in converted.samples] == ["000000001"]
    assert (converted.reject["code"], converted.reject["line"]) == ("E101", 2)


@pytest.mark.parametrize("data", [b"no tar" * 200, b"<html>"])
def test_a_file_that_is_no_tar_is_rejected(tmp_path, data):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/0.tar").write_bytes(data)
    assert run_job(make_job(tmp_path, "captions", tmp_path / "in")).reject["code"] == "E101"


@pytest.mark.parametrize("layout", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_folder_as_tar_packs_it_is_read(tmp_path, layout):
    """Folders, `./`, upper case, long names, links, and members of a sample far apart."""
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    long = "sub/" + "n" * 150
    for name in ("a.JPG", "b.jpeg", f"{long}.png"):
        (folder / name).write_bytes(picture(seed=len(name)))
    for name in ("a.txt", f"{long}.txt", "sub/c.txt"):
        (folder / name).write_text(f"Of {name[0]}.")
    os.link(folder / "a.txt", folder / "b.txt")
    os.link(folder / "a.JPG", folder / "sub/c.jpg")
    with tarfile.open(tmp_path / "0.tar", "w", format=layout, pax_headers={"by": "tar"}) as tar:
        tar.add(folder, ".")
    converted = run_job(make_job(tmp_path, "captions", tmp_path / "0.tar"))
    assert converted.rejects == []
    keys = [sample.document["meta"]["raw"]["key"] for sample in converted.samples]
    assert sorted(keys) == sorted(["a", "b", "sub/c", long])


@pytest.mark.parametrize(
    ("details", "name", "caption"),
    [
        ({"caption": "An owl."}, None, "An owl."),
        ({"text": "An owl.", "caption": None}, None, "An owl."),
        ({"alt": "An owl.", "caption": "No."}, "alt", "An owl."),
        ({"caption": "No."}, "en.cap", "A tall owl."),
    ],
)
def test_a_caption_in_the_json_or_another_member_is_found(tmp_path, details, name, caption):
    members = {"jpg": picture(), "json": json.dumps(details).encode(), "en.cap": b"A tall owl."}
    named = [(f"7.{suffix}", data) for suffix, data in members.items()]
    source = write_tar(tmp_path / "in/0.tar", named)
    options = {"field_map": {"caption": name}} if name else {}
    (sample,) = run_job(make_job(tmp_path, "captions", source, **options)).samples
    assert sample.document["turns"][0]["content"] == [{"media": 0}, {"text": caption}]


def test_a_caption_that_could_be_either_of_two_fields_is_asked_for(tmp_path):
    details = json.dumps({"text": "One.", "caption": "Two."}).encode()
    source = write_tar(tmp_path / "in/0.tar", [("7.jpg", picture()), ("7.json", details)])
    reject = run_job(make_job(tmp_path, "captions", source)).reject
    assert (reject["code"], "--map caption=NAME" in reject["message"]) == ("E305", True)


def test_member_names_lead_nowhere(tmp_path):
    # Names are only ever kept as text: keys are made from the tar's name and the sample's number.
    names = ["../../escape.jpg", "../../escape.txt"]
    source = write_tar(tmp_path / "in/0.tar", zip(names, [picture(), b"An owl."], strict=True))
    (sample,) = run_job(make_job(tmp_path, "captions", source)).samples
    assert sample.key == "captions/0/00000001"
    assert not (tmp_path.parent / "escape.jpg").exists()


def test_every_tar_of_a_folder_is_converted(tmp_path):
    for number in (1, 2):
        write_tar(tmp_path / f"in/{number:05}.tar", pair(number))
    converted = run_job(make_job(tmp_path, "captions", tmp_path / "in"), workers=2)
    keys = [sample.key for sample in converted.samples]
    assert keys == ["captions/00001/00000001", "captions/00002/00000001"]
