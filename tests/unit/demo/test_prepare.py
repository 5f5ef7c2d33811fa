# SPDX-License-Identifier: Apache-2.0
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from owl.config.run import FamilyKind
from owl.demo import prepare
from owl.demo.prepare import parts, prepare_demo
from owl.errors import ConfigError

PARTS = parts(FamilyKind.owl3)


class InThisProcess(ThreadPoolExecutor):
    """In the place of a pool of fresh processes, which would not know of our fakes."""

    def __init__(self, workers, mp_context, initializer):  # the last would change this process
        super().__init__(1)


@pytest.fixture
def made(monkeypatch):
    """Names of the parts that were built, in order; building is quick here."""
    built = []

    def maker(*parts):
        def make(folder, family):
            for part in parts:
                prepare._make(folder / part, lambda output, part=part: build(output, part))

        return make

    def build(output, part):
        built.append(part)
        output.mkdir()
        time.sleep(0.02)

    monkeypatch.setattr(prepare, "ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(prepare, "_make_tokenizer", maker("tokenizer"))
    monkeypatch.setattr(prepare, "_make_language_model", maker("language_model"))
    monkeypatch.setattr(prepare, "_make_vision_model", maker("vision_model"))
    monkeypatch.setattr(prepare, "_make_shards", maker("shards/stage1", "shards/stage2"))
    monkeypatch.setattr(prepare, "_make_start", maker("start"))
    return built


def test_everything_is_made_once(made, tmp_path):
    prepare_demo(tmp_path / "demo")
    prepare_demo(tmp_path / "demo")
    assert sorted(made) == sorted(PARTS)
    assert not list(tmp_path.rglob("*.part"))


def test_only_what_is_missing_is_made_again(made, tmp_path):
    prepare_demo(tmp_path)
    made.clear()
    (tmp_path / "shards" / "stage2").rmdir()
    prepare_demo(tmp_path)
    assert made == ["shards/stage2"]


def test_a_folder_of_another_recipe_is_made_again(made, tmp_path):
    prepare_demo(tmp_path)
    made.clear()
    (tmp_path / "recipe.txt").write_text("0\n")
    prepare_demo(tmp_path)
    assert sorted(made) == sorted(PARTS)


def test_a_folder_of_another_family_is_kept_and_refused(made, tmp_path):
    prepare_demo(tmp_path)
    made.clear()
    with pytest.raises(ConfigError, match=r"has the demo of owl3, but model.family=owl2"):
        prepare_demo(tmp_path, FamilyKind.owl2)
    assert not made


def test_what_was_left_half_made_is_not_taken_for_complete(made, tmp_path, monkeypatch):
    def fail(output):
        output.mkdir()
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        prepare._make(tmp_path / "tokenizer", fail)
    prepare_demo(tmp_path)
    assert sorted(made) == sorted(PARTS)


def test_of_several_callers_one_builds_and_the_others_wait(made, tmp_path):
    with ThreadPoolExecutor(3) as callers:
        for done in [callers.submit(prepare_demo, tmp_path) for _ in range(3)]:
            done.result()
    assert sorted(made) == sorted(PARTS)


def hold_the_lock(folder, held, release):
    with prepare._alone_in(folder):
        held.set()
        release.wait()


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    held, release = spawn.Event(), spawn.Event()
    holder = spawn.Process(target=hold_the_lock, args=(tmp_path, held, release))
    holder.start()
    assert held.wait(60)
    holder.kill()
    holder.join()
    with prepare._alone_in(tmp_path):
        pass
