# SPDX-License-Identifier: Apache-2.0
import errno
import fcntl
import json
import multiprocessing
import shutil
import time

import pytest

from owl.curate.converters import job as job_module
from owl.curate.converters.job import convert
from owl.curate.converters.prompt_endings import PromptEnding
from owl.curate.converters.records import ConvertError, MissingPictures
from owl.curate.converters.shard_series import ShardLimits
from tests.unit.curate.converters.converting import (
    make_job,
    read_samples,
    run_job,
    write_lines,
    write_pictures,
)
from tests.unit.data.shard_factory import picture

FOUR_BATCHES = ShardLimits(max_samples=3)


def questions(count):
    return [{"question": f"{number}?", "answer": "!", "n": number} for number in range(count)]


def shards_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def written_at(folder):
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.glob("*.tar"))}


def test_shards_are_bounded_in_samples_and_in_bytes(tmp_path):
    write_pictures(tmp_path / "images", "a.jpg")
    size = (tmp_path / "images/a.jpg").stat().st_size
    source = write_lines(tmp_path / "in", *(record | {"image": "a.jpg"} for record in questions(7)))
    limits = ShardLimits(max_samples=5, max_bytes=2 * size)
    converted = run_job(make_job(tmp_path, "jsonl", source, limits=limits))
    assert list(shards_of(tmp_path / "shards")) == [
        "source-00000-000.tar",
        "source-00000-001.tar",
        "source-00000-002.tar",
        "source-00001-000.tar",
    ]
    assert [sample.key for sample in converted.samples] == [
        f"jsonl/source/{line:08}" for line in range(1, 8)
    ]


def test_workers_change_nothing(tmp_path):
    records = [*questions(10), {"question": 1, "answer": "!"}, *questions(3)]
    source = write_lines(tmp_path / "in", *records)
    one = run_job(make_job(tmp_path / "1", "jsonl", source, limits=FOUR_BATCHES))
    three = run_job(make_job(tmp_path / "3", "jsonl", source, limits=FOUR_BATCHES), workers=3)
    assert shards_of(tmp_path / "1/shards") == shards_of(tmp_path / "3/shards")
    assert one.rejects == three.rejects
    assert one.reject["line"] == 11


def test_a_second_run_converts_nothing_again(tmp_path):
    job = make_job(
        tmp_path, "jsonl", write_lines(tmp_path / "in", *questions(10)), limits=FOUR_BATCHES
    )
    first, before = run_job(job), written_at(tmp_path / "shards")
    assert run_job(job) == first
    assert written_at(tmp_path / "shards") == before


def test_only_changed_and_new_batches_are_converted_again(tmp_path):
    records = questions(8)
    source = write_lines(tmp_path / "in", *records)
    job = make_job(tmp_path, "jsonl", source, limits=FOUR_BATCHES)
    run_job(job)
    before = written_at(tmp_path / "shards")
    records[4] = records[4] | {"answer": "Changed."}
    write_lines(tmp_path / "in", *records, *questions(1))
    converted = run_job(job)
    after = written_at(tmp_path / "shards")
    assert [name for name in before if before[name] == after[name]] == ["source-00000-000.tar"]
    assert converted.report.samples == 9
    assert converted.samples[4].document["turns"][1]["content"] == [{"text": "Changed."}]


def test_a_run_stopped_in_the_middle_resumes_and_ends_the_same(tmp_path, monkeypatch):
    source = write_lines(tmp_path / "in", *questions(10))
    straight = make_job(tmp_path / "straight", "jsonl", source, limits=FOUR_BATCHES)
    stopped = make_job(tmp_path / "stopped", "jsonl", source, limits=FOUR_BATCHES)
    run_job(straight)

    write, calls = job_module.ShardSeries.write, []

    def fail_at_the_fifth(series, sample):
        calls.append(sample)
        if len(calls) == 5:
            raise OSError(5, "Input/output error")
        write(series, sample)

    with monkeypatch.context() as patch:
        patch.setattr(job_module.ShardSeries, "write", fail_at_the_fifth)
        with pytest.raises(OSError, match="Input/output error"):
            convert(stopped, report=lambda line: None)
    assert list(shards_of(stopped.output)) == ["source-00000-000.tar"]
    assert not list(stopped.output.glob("*.tmp"))
    run_job(stopped)
    assert shards_of(stopped.output) == shards_of(straight.output)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_leaves_nothing_incomplete_and_resumes(tmp_path, workers):
    write_pictures(tmp_path / "images", "a.jpg")
    records = [record | {"image": "a.jpg"} for record in questions(1500)]
    source = write_lines(tmp_path / "in", *records)
    job = make_job(tmp_path, "jsonl", source, limits=ShardLimits(max_samples=100))
    process = multiprocessing.get_context("fork").Process(
        target=convert, args=(job,), kwargs={"workers": workers}
    )
    process.start()
    deadline = time.monotonic() + 100
    while not list((tmp_path / "shards").glob("source-00002-*.tar")):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.join()

    kept = written_at(tmp_path / "shards")
    assert len(kept) < 15
    report = convert(job, report=lambda line: None)
    assert (report.samples, report.shards) == (1500, 15)
    assert not list((tmp_path / "shards").glob("*.tmp"))
    after = written_at(tmp_path / "shards")
    # Those that were just complete may lack the note that says so.
    assert sum(kept[name] != after[name] for name in kept) <= workers
    assert len(read_samples(tmp_path / "shards")) == 1500


def test_rejects_can_be_tried_again_once_the_pictures_are_there(tmp_path):
    write_pictures(tmp_path / "images", "a.jpg")
    source = write_lines(tmp_path / "in", {"image": "b.jpg", "question": "?", "answer": "!"})
    job = make_job(tmp_path, "jsonl", source)
    assert run_job(job).reject["code"] == "E302"
    write_pictures(tmp_path / "images", "b.jpg")
    assert run_job(job).report.samples == 0
    assert run_job(job, retry_rejects=True).report.samples == 1


def test_a_picture_that_was_replaced_under_its_name_is_converted_again(tmp_path):
    images = write_pictures(tmp_path / "images", "a.jpg", "b.jpg")
    records = [{"image": f"{name}.jpg", "question": "?", "answer": "!"} for name in "aab"]
    source = write_lines(tmp_path / "in", *records)
    job = make_job(tmp_path, "jsonl", source, limits=ShardLimits(max_samples=2))
    run_job(job)
    before = written_at(tmp_path / "shards")
    (images / "a.jpg").write_bytes(picture(seed=9))
    converted = run_job(job)
    after = written_at(tmp_path / "shards")
    assert [name for name in before if before[name] == after[name]] == ["source-00001-000.tar"]
    assert [sample.files["m0000.jpg"] == picture(seed=9) for sample in converted.samples] == [
        True,
        True,
        False,
    ]


def test_pictures_that_are_left_out_are_counted_and_tried_again_by_option(tmp_path):
    write_pictures(tmp_path / "images", "a.jpg")
    records = [
        {"images": ["a.jpg", "gone.jpg"], "text": "A <image> B <image> C"},
        {"images": ["lost.jpg"], "text": "D <image>"},
    ]
    source = write_lines(tmp_path / "in", *records)
    job = make_job(tmp_path, "jsonl", source, missing_pictures=MissingPictures.leave_out)
    converted = run_job(job)
    assert (converted.report.left_out, converted.report.bare) == ({"E302": 2}, 1)
    first, second = converted.samples
    assert first.document["turns"][0]["content"] == [
        {"text": "A "},
        {"media": 0},
        {"text": " B  C"},
    ]
    assert second.document["meta"]["left_out"] == ["lost.jpg"]
    write_pictures(tmp_path / "images", "gone.jpg")
    assert run_job(job).report.left_out == {"E302": 2}
    assert run_job(job, retry_rejects=True).report.left_out == {"E302": 1}


def test_a_question_about_a_missing_picture_is_rejected_all_the_same(tmp_path):
    write_pictures(tmp_path / "images", "a.jpg")
    record = {"image": "gone.jpg", "question": "What?", "answer": "An owl."}
    source = write_lines(tmp_path / "in", record)
    job = make_job(tmp_path, "jsonl", source, missing_pictures=MissingPictures.leave_out)
    assert run_job(job).reject["code"] == "E302"


@pytest.mark.parametrize("record", [[], [[]], [1], "text", None])
def test_a_record_that_is_no_object_is_rejected_and_the_others_are_converted(tmp_path, record):
    source = write_lines(tmp_path / "in", *questions(1), record, *questions(1))
    converted = run_job(make_job(tmp_path, "jsonl", source))
    assert (converted.report.samples, converted.reject["code"]) == (2, "E203")


def test_a_reject_names_the_picture(tmp_path):
    images = write_pictures(tmp_path / "images", "a.jpg")
    (images / "fig.svg").write_text("<svg/>")
    (images / "cut.jpg").write_bytes(picture(200, 200)[:-600])
    records = [
        {"images": ["a.jpg", name], "text": "<image><image>x"} for name in ("fig.svg", "cut.jpg")
    ]
    source = write_lines(tmp_path / "in", *records)
    rejects = run_job(make_job(tmp_path, "jsonl", source)).rejects
    assert [reject["code"] for reject in rejects] == ["E307", "E308"]
    assert "'fig.svg'" in rejects[0]["message"]
    assert "'cut.jpg'" in rejects[1]["message"]


def test_other_settings_are_refused_with_their_difference(tmp_path):
    source = write_lines(tmp_path / "in", *questions(1))
    run_job(make_job(tmp_path, "jsonl", source))
    other = make_job(tmp_path, "jsonl", source, prompt_ending=PromptEnding.short_answer)
    with pytest.raises(ConvertError, match=r"prompt_ending: None before, .*short_answer"):
        run_job(other)


def test_shards_of_others_are_never_mixed_in(tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/mine.tar").write_bytes(b"precious")
    with pytest.raises(ConvertError, match="Choose an empty folder"):
        run_job(make_job(tmp_path, "jsonl", write_lines(tmp_path / "in", *questions(1))))
    assert (tmp_path / "shards/mine.tar").read_bytes() == b"precious"


def test_shards_whose_input_is_gone_are_named(tmp_path):
    source = write_lines(tmp_path / "in", *questions(5))
    job = make_job(tmp_path, "jsonl", source, limits=FOUR_BATCHES)
    run_job(job)
    write_lines(tmp_path / "in", *questions(3))
    assert run_job(job).report.abandoned == ["source-00001-000.tar"]


def test_two_conversions_into_one_folder_are_refused(tmp_path):
    job = make_job(tmp_path, "jsonl", write_lines(tmp_path / "in", *questions(1)))
    with job_module._locked(job.output), pytest.raises(ConvertError, match="another conversion"):
        convert(job, report=lambda line: None)


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_written_and_a_crash_leaves_no_lock(
    tmp_path, monkeypatch, caplog, error
):
    def fail(*arguments):
        raise OSError(error, "no locks here")

    monkeypatch.setattr(fcntl, "flock", fail)
    job = make_job(tmp_path, "jsonl", write_lines(tmp_path / "in", *questions(1)))
    with job_module._locked(job.output):  # as if that process had died in between
        assert run_job(job).report.samples == 1
    assert "cannot be locked" in caplog.text


def test_files_that_would_share_shard_names_are_refused(tmp_path):
    write_lines(tmp_path / "in", *questions(1), name="a b.jsonl")
    write_lines(tmp_path / "in", *questions(1), name="a-b.jsonl")
    with pytest.raises(ConvertError, match=r"'a b\.jsonl' and 'a-b\.jsonl'"):
        run_job(make_job(tmp_path, "jsonl", tmp_path / "in"))


def test_input_that_leads_out_of_its_folder_is_refused(tmp_path):
    outside = write_lines(tmp_path / "outside", *questions(1))
    write_lines(tmp_path / "in", *questions(1), name="a.jsonl")
    (tmp_path / "in/b.jsonl").symlink_to(outside)
    with pytest.raises(ConvertError, match=r"'b\.jsonl' leads out of"):
        run_job(make_job(tmp_path, "jsonl", tmp_path / "in"))


def test_linked_folders_are_input_when_they_are_trusted(tmp_path):
    write_lines(tmp_path / "disk", *questions(1), name="b.jsonl")
    write_lines(tmp_path / "in", *questions(1), name="a.jsonl")
    (tmp_path / "in/linked").symlink_to(tmp_path / "disk")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    assert run_job(make_job(tmp_path, "jsonl", tmp_path / "in")).report.samples == 1
    shutil.rmtree(tmp_path / "shards")
    job = make_job(tmp_path, "jsonl", tmp_path / "in", follow_links=True)
    assert run_job(job).report.samples == 2


def test_sub_folders_are_input_and_hidden_files_are_not(tmp_path):
    for name in ("a/1.jsonl", "b/1.json", ".cache/2.jsonl", "a/._1.jsonl", "a/notes.txt"):
        path = tmp_path / "in" / name
        write_lines(path.parent, *questions(1), name=path.name)
    converted = run_job(make_job(tmp_path, "jsonl", tmp_path / "in"))
    keys = [sample.key for sample in converted.samples]
    assert keys == ["jsonl/a-1/00000001", "jsonl/b-1/00000001"]


def test_the_summary_is_beside_the_shards(tmp_path):
    source = write_lines(tmp_path / "in", *questions(2), {"question": 1})
    run_job(make_job(tmp_path, "jsonl", source))
    summary = json.loads((tmp_path / "shards/convert.json").read_text())
    assert (summary["samples"], summary["rejects"]) == (2, 1)
    assert summary["codes"] == {"E203": 1}
    assert summary["settings"]["family"] == "jsonl"
