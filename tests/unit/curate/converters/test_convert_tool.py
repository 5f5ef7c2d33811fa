# SPDX-License-Identifier: Apache-2.0
import pytest

from owl.curate.converters.formats.registry import FORMATS
from owl.curate.tools import conversion, convert
from tests.unit.curate.converters.converting import read_samples, write_lines, write_pictures
from tests.unit.data.shard_factory import picture

GOOD = {"question": "?", "answer": "!"}


@pytest.fixture
def run(capsys):
    """Run the tool in this process: starting one takes longer than all of these tests."""

    def run(*arguments):
        code = convert.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_clean_source_gives_exit_code_zero(tmp_path, run):
    source = write_lines(tmp_path / "in", GOOD, GOOD)
    code, out, err = run("jsonl", "--input", source, "--output", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "wrote 2 samples into 1 shards" in out
    assert "convert 100% |" in out
    assert "2 samples, 0 rejected" in out


def test_rejects_give_exit_code_one_and_are_counted(tmp_path, run):
    source = write_lines(tmp_path / "in", GOOD, {"question": 1})
    code, _, err = run("jsonl", "--input", source, "--output", tmp_path / "out")
    assert code == 1
    assert "rejected 1: E203 1" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input", "gone.jsonl", "--output", "out"], "gone.jsonl does not exist"),
        (["--input", "IN", "--output", "IN/out"], "is inside --input"),
        (["--input", "IN", "--output", "OUT", "--workers", "0"], "--workers 0: use at least 1"),
        (["--input", "IN", "--output", "OUT", "--name", "../x"], "--name ../x: use up to 40"),
        (["--input", "IN", "--output", "OUT", "--images", "gone"], "gone is not a folder"),
        (
            ["--input", "EMPTY", "--output", "OUT"],
            "has no .jsonl, .json, .jsonl.gz or",
        ),
    ],
)
def test_what_cannot_start_gives_exit_code_two(tmp_path, run, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "IN", GOOD)
    (tmp_path / "EMPTY").mkdir()
    code, _, err = run("jsonl", *arguments)
    assert code == 2
    assert words in err


@pytest.mark.parametrize(
    ("name", "option", "words"),
    [
        ("captions", ["--prompt-ending", "short_answer"], "works with llava, m4"),
        ("llava", ["--missing-pictures", "leave_out"], "works with obelics, mmc4, pages, jsonl"),
        ("llava", ["--turns-of", "image"], "--turns-of works with jsonl, csv, not with llava"),
        ("llava", ["--prompt-ending", "by_question_type"], "works with m4 only"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(tmp_path, run, name, option, words):
    source = write_lines(tmp_path / "in", GOOD)
    code, _, err = run(name, "--input", source, "--output", tmp_path / "out", *option)
    assert code == 2
    assert words in err


def test_ctrl_c_gives_exit_code_130_and_how_to_resume(tmp_path, run, monkeypatch):
    def stop(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(conversion, "convert", stop)
    source = write_lines(tmp_path / "in", GOOD)
    code, _, err = run("jsonl", "--input", source, "--output", tmp_path / "out")
    assert code == 130
    assert "Run the same command again to resume" in err


def test_help_lists_formats_and_exit_codes(capsys):
    with pytest.raises(SystemExit) as stopped:
        convert.main(["--help"])
    printed = capsys.readouterr().out
    assert stopped.value.code == 0
    assert "Exit code" in printed
    assert all(f"  {name} " in printed for name in FORMATS)


def test_lines_about_one_picture_become_one_conversation_that_can_be_prepared(tmp_path, run):
    """The layout of OwlEval: one line a question, and a PNG under a name that ends in .jpg."""
    write_pictures(tmp_path / "images", "1.jpg", "2.jpg")
    (tmp_path / "images/3.jpg").write_bytes(picture(codec="PNG"))
    lines = [
        {"image": f"{image}.jpg", "question_id": number, **GOOD}
        for number, image in enumerate((1, 2, 2, 2, 3))
    ]
    source = write_lines(tmp_path / "in", *lines)
    output = tmp_path / "out"
    code, out, err = run(
        *("jsonl", "--input", source, "--images", tmp_path / "images"),
        *("--turns-of", "image", "--output", output),
    )
    assert (code, err) == (0, "")
    assert "wrote 3 samples" in out
    samples = read_samples(output)
    assert [len(sample.document["turns"]) for sample in samples] == [2, 6, 2]
    assert list(samples[2].files) == ["m0000.png"]
