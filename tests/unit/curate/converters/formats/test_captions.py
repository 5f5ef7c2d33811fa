# SPDX-License-Identifier: Apache-2.0
import io
import json
import pickle
import tarfile
from pathlib import Path

import pytest

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
    assert converted.reject["code"] == "E303"
    assert "['pkl']" in converted.reject["message"]


@pytest.mark.parametrize(
    ("members", "code"),
    [
        (pair(1, caption=b""), "E204"),
        (pair(1, caption=b"\xff"), "E201"),
        ([("1.jpg", picture()[:-200]), ("1.txt", b"An owl.")], "E308"),
        ([*pair(1)[:2], ("000000001.json", b"[]")], "E203"),
        ([*pair(1), ("000000001.txt", b"Another.")], "E106"),
    ],
)
def test_a_bad_pair_is_rejected(tmp_path, members, code):
    source = write_tar(tmp_path / "in/0.tar", members)
    assert run_job(make_job(tmp_path, "captions", source)).reject["code"] == code


def test_what_follows_damage_is_reported_as_lost(tmp_path):
    source = write_tar(tmp_path / "in/0.tar", pair(1) + pair(2) + pair(3))
    data = bytearray(source.read_bytes())
    at = data.index(b"000000003.jpg")
    data[at] ^= 1
    source.write_bytes(data)
    converted = run_job(make_job(tmp_path, "captions", source))
    assert converted.report.samples == 1
    assert (converted.reject["code"], converted.reject["line"]) == ("E101", 2)
    assert "This sample and all after it are not converted" in converted.reject["message"]


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
