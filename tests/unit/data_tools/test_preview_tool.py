# SPDX-License-Identifier: Apache-2.0
from tests.unit.data.shard_factory import write_chats, write_tokenizer
from tests.unit.data_tools.command import run_command, run_tool


def words(tmp_path):
    folder = write_chats(tmp_path / "a")
    return [
        "data=own",
        f"data.sources.a.path={folder}",
        f"data.tokenizer={write_tokenizer(tmp_path / 'tokenizer')}",
        "pack.window=10",
        "batch.global_batch_size=2",
    ]


def preview(*arguments):
    return run_tool("data_tools/preview.py", *arguments)


def test_a_step_of_a_rank_and_a_sample_are_written_as_pages(tmp_path):
    page = tmp_path / "p.html"
    run = words(tmp_path)
    options = ["--step", 2, "--dp", 2, "--rank", 1, "--output", page]
    result = run_command("data_tools/preview.py", *options, *run)
    assert (result.returncode, result.stderr) == (0, "")
    text = page.read_text(encoding="utf-8")
    assert "Step 2, rank 1 of 2, micro-batch 0 of 1" in text
    assert "Work of the ranks in this step" in text

    assert preview("--sample", "a:s0004", "--output", page, *run).returncode == 0
    assert "Sample 4 of a: s0004" in page.read_text(encoding="utf-8")


def test_what_cannot_be_shown_is_said_with_exit_code_two(tmp_path):
    result = preview("--dp", 2, "--rank", 2)
    assert result.returncode == 2
    assert "ranks are numbered 0 to dp - 1" in result.stderr
    result = preview("--output", tmp_path / "no" / "p.html")
    assert result.returncode == 2
    assert "there is no such folder" in result.stderr
    assert "in the run config" not in result.stderr
    result = preview("--output", tmp_path)
    assert result.returncode == 2
    assert f"--output {tmp_path} is a folder" in result.stderr
    for options in (["--sample", "b:1"], ["--sample", "a:99"], ["--microbatch", 9]):
        result = preview("--output", tmp_path / "p.html", *options, *words(tmp_path))
        assert result.returncode == 2
        assert result.stderr.startswith(f"preview: {options[0]} {options[1]}")


def test_a_sample_that_training_would_drop_is_called_so(tmp_path):
    page, run = tmp_path / "p.html", [*words(tmp_path), "pack.text_tokens=40", "pack.tiles=1"]
    result = preview("--sample", "a:s0006", "--output", page, *run)
    assert result.returncode == 0, result.stderr
    assert "note: training drops it (E401: " in result.stdout
    assert "data.oversize=drop" in page.read_text(encoding="utf-8")
    shortened = preview("--sample", "a:s0006", "--output", page, *run, "data.oversize=truncate")
    assert "note: training shortens it" in shortened.stdout
    whole = preview("--sample", "a:s0006", "--output", page, *words(tmp_path))
    assert "note" not in whole.stdout


def test_a_step_that_the_run_does_not_reach_is_refused(tmp_path):
    result = preview("--step", 161, *words(tmp_path), "stage.train_steps=160")
    assert result.returncode == 2
    assert "--step 161 is above stage.train_steps=160" in result.stderr
