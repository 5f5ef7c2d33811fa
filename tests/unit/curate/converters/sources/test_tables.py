# SPDX-License-Identifier: Apache-2.0
"""Tables of other kinds: csv, arrow, packed json, and the metadata of an imagefolder."""

import gzip
import json

import pytest

from tests.unit.curate.converters.converting import (
    make_job,
    run_job,
    write_lines,
    write_pictures,
)
from tests.unit.data.shard_factory import picture

GOOD = {"question": "?", "answer": "An owl."}


def texts(converted):
    return [
        "".join(
            part.get("text", "*") for turn in sample.document["turns"] for part in turn["content"]
        )
        for sample in converted.samples
    ]


# Json.


def test_packed_json_is_read_as_the_plain_one(tmp_path):
    plain = write_lines(tmp_path / "plain", GOOD, GOOD | {"answer": "Two."})
    packed = tmp_path / "in/source.jsonl.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    converted = run_job(make_job(tmp_path, "jsonl", packed.parent))
    assert texts(converted) == ["?An owl.", "?Two."]
    array = tmp_path / "array.json"  # packed without saying so
    array.write_bytes(gzip.compress(b"[" + json.dumps(GOOD).encode() + b"]"))
    (tmp_path / "second").mkdir()
    assert texts(run_job(make_job(tmp_path / "second", "jsonl", array))) == ["?An owl."]


def test_a_torn_packed_file_gives_what_is_before_the_tear(tmp_path):
    records = [GOOD | {"id": str(number) * 50} for number in range(2000)]
    data = gzip.compress("\n".join(map(json.dumps, records)).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(data[: len(data) * 2 // 3])
    converted = run_job(make_job(tmp_path, "jsonl", tmp_path / "a.jsonl.gz"))
    assert 0 < converted.report.samples < 2000
    assert converted.reject["line"] == converted.report.samples + 1
    assert converted.reject["code"] == "E201"


@pytest.mark.parametrize("content", [b"[]", b"[1, 2, 3]", b"{}", b""])
def test_a_packed_file_without_its_end_is_one_reject(tmp_path, content):
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(content)[:-5])
    assert run_job(make_job(tmp_path, "jsonl", tmp_path / "a.json.gz")).reject["code"] == "E201"


@pytest.mark.parametrize("bad", ["[" * 5000 + "]" * 5000, '{"a": [1,]}', '{"a": "]" "b"}'])
@pytest.mark.parametrize("window", [64, 1 << 20])
def test_a_bad_record_of_an_array_is_rejected_alone(tmp_path, monkeypatch, bad, window):
    monkeypatch.setattr("owl.curate.converters.sources.json_source.WINDOW_CHARS", window)
    good = json.dumps(GOOD)
    (tmp_path / "a.json").write_text(f'[{good}, {{"x": {bad}}}, {good}]')
    converted = run_job(make_job(tmp_path, "jsonl", tmp_path / "a.json"))
    assert converted.report.samples == 2
    assert (converted.reject["line"], converted.reject["code"]) == (2, "E201")


# Text tables.


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_text_table_has_the_layouts_of_json(tmp_path, separator):
    write_pictures(tmp_path / "images", "a.jpg")
    rows = [["image", "question", "answer", "note"], ["a.jpg", '"Two\nlines?"', "An owl.", ""]]
    table = tmp_path / ("a.tsv" if separator == "\t" else "a.csv")
    table.write_text("\ufeff" + "\n".join(separator.join(row) for row in rows), encoding="utf-8")
    converted = run_job(make_job(tmp_path, "csv", table))
    assert texts(converted) == ["*Two\nlines?An owl."]
    assert "raw" not in converted.document["meta"]


def test_a_row_of_another_length_is_rejected_by_its_line(tmp_path):
    (tmp_path / "a.csv").write_text("question,answer\n?,!\n?,a,b\n\n?,!!\n")
    converted = run_job(make_job(tmp_path, "csv", tmp_path / "a.csv"))
    assert texts(converted) == ["?!", "?!!"]
    assert (converted.reject["line"], "has 3 cells" in converted.reject["message"]) == (3, True)


def test_a_table_in_another_encoding_says_what_to_do(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"question,answer\n?,\xd6\xd0\n")
    reject = run_job(make_job(tmp_path, "csv", tmp_path / "a.csv")).reject
    assert "Save it as CSV in UTF-8" in reject["message"]


# Arrow.


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_the_cache_of_hugging_face_is_read(tmp_path, kind):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is optional (extra `data`)")
    rows = [
        {"image": {"bytes": picture(seed=number), "path": None}, "text": f"Owl {number}."}
        for number in range(70)
    ]
    table = pyarrow.Table.from_pylist(rows)
    new = pyarrow.ipc.new_stream if kind == "stream" else pyarrow.ipc.new_file
    (tmp_path / "in").mkdir()
    with new(str(tmp_path / "in/data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=40)
    (tmp_path / "in/state.json").write_text("{}")
    job = make_job(tmp_path, "parquet", tmp_path / "in")
    converted = run_job(job)
    assert texts(converted) == [f"*Owl {number}." for number in range(70)]
    assert [next(iter(sample.files.values())) for sample in converted.samples] == [
        row["image"]["bytes"] for row in rows
    ]
    assert converted.report.shards == 2


# Imagefolder.


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_an_imagefolder_is_read_in_each_of_its_folders(tmp_path, kind):
    folder = tmp_path / "in"
    for split in ("train", "test"):
        write_pictures(folder / split, "a.jpg", "sub/b.jpg")
        rows = [
            {"file_name": "a.jpg", "text": f"{split} a"},
            {"file_name": "sub/b.jpg", "text": f"{split} b"},
        ]
        if kind == "jsonl":
            write_lines(folder / split, *rows, name="metadata.jsonl")
        elif kind == "csv":
            lines = ["file_name,text", *(",".join(row.values()) for row in rows)]
            (folder / split / "metadata.csv").write_text("\n".join(lines))
        else:
            pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is optional (extra `data`)")
            from pyarrow import parquet

            parquet.write_table(
                pyarrow.Table.from_pylist(rows), folder / split / "metadata.parquet"
            )
    converted = run_job(make_job(tmp_path, "imagefolder", folder))
    assert texts(converted) == ["*test a", "*test b", "*train a", "*train b"]
    uris = [sample.document["media"][0]["uri"] for sample in converted.samples]
    assert uris == ["test/a.jpg", "test/sub/b.jpg", "train/a.jpg", "train/sub/b.jpg"]


def test_a_row_of_an_imagefolder_may_name_several_pictures(tmp_path):
    write_pictures(tmp_path / "in", "a.jpg", "b.jpg")
    row = {"file_names": ["a.jpg", "b.jpg"], "question": "Same?", "answer": "No."}
    source = write_lines(tmp_path / "in", row, name="metadata.jsonl")
    for number, place in enumerate((tmp_path / "in", source)):
        (tmp_path / f"{number}").mkdir()
        assert texts(run_job(make_job(tmp_path / f"{number}", "imagefolder", place))) == [
            "**Same?No."
        ]
