# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints of a run count, and which go."""

from pathlib import Path

import pytest

from owl.checkpoint.folder import (
    checkpoint_path,
    complete_checkpoints,
    newest_checkpoint,
    remove_old,
    resolve_checkpoint,
)
from owl.errors import CheckpointError


def make_checkpoints(run: Path, *steps: int) -> list[Path]:
    paths = [checkpoint_path(run, step) for step in steps]
    for path in paths:
        path.mkdir(parents=True)
        (path / "metadata.json").write_text("{}")
    return paths


def make_leftover(run: Path, step: int) -> Path:
    path = checkpoint_path(run, step)
    leftover = path.with_name(f"{path.name}.tmp")
    leftover.mkdir(parents=True)
    return leftover


def test_the_newest_checkpoint_has_the_highest_step(tmp_path):
    paths = make_checkpoints(tmp_path, 900, 1000, 20)

    assert newest_checkpoint(tmp_path) == paths[1]
    assert complete_checkpoints(tmp_path) == [paths[2], paths[0], paths[1]]


def test_what_a_killed_save_left_behind_is_no_checkpoint(tmp_path):
    (complete,) = make_checkpoints(tmp_path, 10)
    make_leftover(tmp_path, 20)
    (tmp_path / "checkpoints/notes").mkdir()

    assert complete_checkpoints(tmp_path) == [complete]


def test_a_fresh_run_has_no_checkpoint(tmp_path):
    assert complete_checkpoints(tmp_path) == []
    assert newest_checkpoint(tmp_path) is None


@pytest.mark.parametrize(("keep", "left"), [(1, [40]), (3, [20, 30, 40]), (9, None), (0, None)])
def test_the_newest_stay(tmp_path, keep, left):
    make_checkpoints(tmp_path, 10, 20, 30, 40)

    remove_old(tmp_path, keep)

    kept = [checkpoint_path(tmp_path, step) for step in left or [10, 20, 30, 40]]
    assert complete_checkpoints(tmp_path) == kept


@pytest.mark.parametrize("keep", [0, 1])
def test_leftovers_go_with_the_old(tmp_path, keep):
    make_checkpoints(tmp_path, 10)
    leftover = make_leftover(tmp_path, 5)

    remove_old(tmp_path, keep)

    assert not leftover.exists()


def test_removing_needs_no_folder(tmp_path):
    remove_old(tmp_path, keep=2)

    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_means_its_newest_checkpoint(tmp_path):
    paths = make_checkpoints(tmp_path, 10, 20)

    assert resolve_checkpoint(tmp_path, "checkpoint.start_from") == paths[1]
    assert resolve_checkpoint(paths[0], "checkpoint.start_from") == paths[0]


def test_neither_checkpoint_nor_run_is_refused_with_setting_value_and_example(tmp_path):
    make_leftover(tmp_path, 10)

    with pytest.raises(CheckpointError) as refusal:
        resolve_checkpoint(tmp_path, "checkpoint.start_from")

    message = str(refusal.value)
    assert f"checkpoint.start_from={tmp_path}" in message
    assert "runs/stage1/checkpoints/step_00000100" in message


def test_a_hugging_face_folder_says_what_to_do(tmp_path):
    (tmp_path / "config.json").touch()
    with pytest.raises(CheckpointError, match=r"is a Hugging Face folder.*owl\.convert import"):
        resolve_checkpoint(tmp_path, "--checkpoint")
