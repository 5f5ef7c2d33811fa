# SPDX-License-Identifier: Apache-2.0
import json

import pytest

from owl.curate.converters.sources import json_source
from owl.curate.converters.sources.json_source import read_lines
from owl.curate.converters.sources.json_text import parse_json
from owl.curate.converters.sources.source import SourceFile
from owl.errors import DataError
from tests.unit.curate.converters.converting import make_job, run_job


def lines_of(tmp_path, content: bytes, name="source.json"):
    (tmp_path / name).write_bytes(content)
    return [
        (line.number, json.loads(line.text) if not line.problem else line.problem)
        for line in read_lines(SourceFile(tmp_path, name))
    ]


@pytest.mark.parametrize("window", [1, 3, 7, 1 << 20])
def test_an_array_is_read_element_by_element_whatever_the_window(tmp_path, monkeypatch, window):
    monkeypatch.setattr(json_source, "WINDOW_CHARS", window)
    content = '\ufeff [\n{"a": "x]},"}, 12345\n,\n\n["\u00e9", null]\n ] \n'.encode()
    assert lines_of(tmp_path, content) == [(1, {"a": "x]},"}), (2, 12345), (3, ["\u00e9", None])]


def test_an_empty_array_has_no_records(tmp_path):
    assert lines_of(tmp_path, b"[\n]") == []


def test_lines_are_numbered_as_an_editor_does(tmp_path):
    content = b'\xef\xbb\xbf{"a": 1}\r\n\n{"a": 2}'
    assert lines_of(tmp_path, content, "source.jsonl") == [(1, {"a": 1}), (3, {"a": 2})]


def test_a_list_in_the_first_of_several_lines_is_a_record_and_no_array(tmp_path):
    content = b'[]\n{"a": 1}\n'
    assert lines_of(tmp_path, content, "source.jsonl") == [(1, []), (2, {"a": 1})]
    assert lines_of(tmp_path, b'[{"a": 1}]\n\n', "source.jsonl") == [(1, {"a": 1})]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b'[{"a": 1},\n{"a": ]', 2),
        (b'[{"a": 1}\n{"a": 2}]', 2),
        (b'[{"a": 1}\n', 2),
        (b'[{"a": 1}\n] x', 2),
        (b'[{"a": 1},\n"\xff"]', 1),
    ],
)
def test_a_broken_array_is_reported_from_its_first_bad_element(tmp_path, content, line):
    *good, (number, problem) = lines_of(tmp_path, content)
    assert number == line
    assert "Nothing after it is converted" in problem
    assert good in ([], [(1, {"a": 1})])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"a": 1, "a": 2}', "['a'] are there twice"),
        (b'{"a": NaN}', "NaN is not json"),
        (b'{"a": "\xff"}', "utf-8"),
        (b"{", "this is not json"),
        (b"[" * 100_000, "this is not json"),
    ],
)
def test_what_python_would_let_pass_is_refused(text, words):
    with pytest.raises(DataError, match="E201") as caught:
        parse_json(text)
    assert words in str(caught.value)


def test_broken_lines_are_rejected_by_number_and_the_rest_is_kept(tmp_path):
    good = b'{"question": "?", "answer": "!"}'
    (tmp_path / "in.jsonl").write_bytes(b"\n".join([good, b"{", b"", good, b"\xff"]))
    job = make_job(tmp_path, "jsonl", tmp_path / "in.jsonl", turns_of="question")
    converted = run_job(job)
    assert [reject["line"] for reject in converted.rejects] == [2, 5]
    assert converted.report.samples == 2


def test_records_of_an_array_on_one_line_have_numbers_of_their_own(tmp_path):
    content = json.dumps([{"a": number} for number in range(3)]).encode()
    assert [number for number, _ in lines_of(tmp_path, content)] == [1, 2, 3]
