# SPDX-License-Identifier: Apache-2.0
import sys
from datetime import datetime

import pytest

from owl.curate.converters.records import ConvertError
from tests.unit.curate.converters.converting import (
    assert_nothing_lost,
    make_job,
    run_job,
    write_pictures,
)
from tests.unit.data.shard_factory import picture


@pytest.fixture(scope="module")
def parquet():
    return pytest.importorskip("pyarrow.parquet", reason="pyarrow is optional (extra `data`)")


def write_table(tmp_path, rows, **options):
    import pyarrow
    from pyarrow import parquet

    folder = tmp_path / "in"
    folder.mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet", **options)
    return folder / "rows.parquet"


def stored(seed, path=None):
    return {"bytes": picture(seed=seed), "path": path}


def asked(*said):
    return [
        {"user": user, "assistant": answer, "source": "vqa"}
        for user, answer in zip(said[::2], said[1::2], strict=True)
    ]


CAULDRON = [
    {"images": [stored(1)], "texts": asked("What?", "An owl.", "Sure?", "Yes.")},
    {"images": [stored(2, "x.png"), stored(3)], "texts": asked("Same?", "No.")},
    {"images": [], "texts": asked("Why?", "Why not.")},
]


def test_the_chat_layout_keeps_its_pictures(tmp_path, parquet):
    converted = run_job(make_job(tmp_path, "parquet", write_table(tmp_path, CAULDRON)))
    for row, sample in zip(CAULDRON, converted.samples, strict=True):
        assert_nothing_lost(row, sample.document)
        assert list(sample.files.values()) == [image["bytes"] for image in row["images"]]
    first = converted.samples[1].document["turns"][0]["content"]
    assert first == [{"media": 0}, {"media": 1}, {"text": "Same?"}]


def test_the_interleaved_layout_keeps_stored_pictures(tmp_path, parquet):
    rows = [{"images": [None, stored(1, "a.jpg")], "texts": ["An owl:", None], "url": "https://a"}]
    (sample,) = run_job(make_job(tmp_path, "parquet", write_table(tmp_path, rows))).samples
    assert sample.document["turns"][0]["content"] == [{"text": "An owl:"}, {"media": 0}]
    assert sample.document["meta"]["raw"] == {"url": "https://a", "images": [{"path": "a.jpg"}]}
    assert sample.files == {"m0000.jpg": picture(seed=1)}


def test_the_interleaved_layout_finds_pictures_beside_it(tmp_path, parquet):
    write_pictures(tmp_path / "images", "a.jpg")
    rows = [{"images": [None, "a.jpg"], "texts": ["An owl:", None], "metadata": "[null, {}]"}]
    (sample,) = run_job(make_job(tmp_path, "parquet", write_table(tmp_path, rows))).samples
    assert sample.document["turns"][0]["content"] == [{"text": "An owl:"}, {"media": 0}]
    assert_nothing_lost(rows[0], sample.document)


def test_rows_are_counted_over_the_whole_file(tmp_path, parquet):
    bad = {"images": [{"bytes": b"no picture", "path": "a"}], "texts": asked("?", "!")}
    source = write_table(tmp_path, [*CAULDRON, bad], row_group_size=3)
    converted = run_job(make_job(tmp_path, "parquet", source), workers=2)
    assert (converted.reject["line"], converted.reject["code"]) == (4, "E307")
    assert converted.report.samples == 3


@pytest.mark.parametrize(
    ("row", "code", "words"),
    [
        ({"images": [{"bytes": None, "path": "a"}], "texts": asked("?", "!")}, "E302", "no bytes"),
        ({"images": [], "texts": [{"user": "?"}]}, "E203", "texts[0].assistant is missing"),
        ({"images": [stored(1)]}, "E203", "the fields of no layout"),
        (CAULDRON[0] | {"when": datetime(2024, 1, 1)}, "E203", "cannot be kept as json"),
        (CAULDRON[0] | {"score": float("nan")}, "E203", "cannot be kept as json"),
    ],
)
def test_a_bad_row_is_rejected(tmp_path, parquet, row, code, words):
    reject = run_job(make_job(tmp_path, "parquet", write_table(tmp_path, [row]))).reject
    assert reject["code"] == code
    assert words in reject["message"]


def test_a_file_that_is_no_parquet_is_named(tmp_path, parquet):
    (tmp_path / "a.parquet").write_text("not a table")
    with pytest.raises(ConvertError, match=r"a\.parquet is not a parquet file"):
        run_job(make_job(tmp_path, "parquet", tmp_path / "a.parquet"))


def test_without_pyarrow_the_message_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_text("")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConvertError, match=r"pip install 'owl3-megatron\[data\]'"):
        run_job(make_job(tmp_path, "parquet", tmp_path / "a.parquet"))
