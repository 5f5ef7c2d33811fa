# SPDX-License-Identifier: Apache-2.0
"""owl evaluate: the same answers from a checkpoint, from its export, on two ranks, after a kill."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from owl.command.evaluate import main
from owl.convert.from_hf import import_checkpoint
from owl.convert.to_hf import ExportOptions, export_checkpoint
from owl.demo.digits import IMAGE_SIZE
from owl.demo.text import VOCABULARY, save_tokenizer
from owl.mcore.launch import run_in_processes
from tests.published import random_weights, small_config, write_published
from tests.unit.data.shard_factory import picture

ROOT = Path(__file__).parents[2]
COUNT = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A checkpoint of random weights, its export, a tokenizer, and questions about pictures."""
    path = tmp_path_factory.mktemp("evaluate")
    config = small_config("240728")
    vision = config["vision_config"] | {"image_size": IMAGE_SIZE}
    config |= {"vocab_size": len(VOCABULARY), "vision_config": vision}
    weights = random_weights("240728", config, dtype=torch.float32)
    # So large that answers depend on the pictures.
    weights = {name: 6 * w if w.ndim > 1 else w for name, w in weights.items()}
    hf = write_published(path / "hf", "240728", config=config, weights=weights)
    import_checkpoint(hf, path / "checkpoint")
    save_tokenizer(path / "tokenizer")
    options = ExportOptions(base=path / "tokenizer")
    export_checkpoint(path / "checkpoint", path / "exported", options)
    records = []
    for number in range(COUNT):
        (path / f"{number}.png").write_bytes(picture(56, 56, seed=number, codec="PNG"))
        images = [f"{number}.png", "0.png"][: number % 3]
        text = "What digit is this ? " * (1 + number % 4)
        records.append({"id": number, "images": images, "question": text, "answers": ["seven"]})
    records[7]["images"] = ["torn.png"]
    (path / "torn.png").write_bytes(picture(56, 56, codec="PNG")[:80])
    (path / "questions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def words(folder: Path, name: str, *more: str, model: str = "checkpoint") -> list[str]:
    tokenizer = ["--tokenizer", str(folder / "tokenizer")] if model == "checkpoint" else []
    source = ["--checkpoint" if tokenizer else "--model", str(folder / model)]
    return [
        *source, *tokenizer, "--data", str(folder), "--output", str(folder / name),
        "--max-new-tokens", "4", "--device", "cpu", "--dtype", "float32", *more,
    ]  # fmt: skip


def answers(folder: Path, name: str) -> dict[str, str]:
    lines = (folder / name / "predictions.jsonl").read_text().splitlines()
    predictions = [json.loads(line) for line in lines]
    assert len({one["id"] for one in predictions}) == len(predictions) == COUNT
    assert [one["id"] for one in predictions if one["error"]] == ["7"]
    return {one["id"]: one["answer"] for one in predictions}


@pytest.fixture(scope="module")
def expected(folder) -> dict[str, str]:
    main(words(folder, "one"))
    return answers(folder, "one")


def test_a_checkpoint_answers_and_the_table_counts(folder, expected, capsys):
    main(words(folder, "one"))  # nothing is left to answer: the results again

    assert len(set(expected.values())) > 3, "the answers are all alike: nothing is compared"
    printed = capsys.readouterr().out
    assert f"all {COUNT:>18}" in " ".join(printed.split()) or str(COUNT) in printed
    assert (
        f"1 of {COUNT} questions could not be asked and count as wrong; the first one, 7: DataError"
        in printed
    )
    results = json.loads((folder / "one/results.json").read_text())
    assert (results["questions"], results["scored"], results["failed"]) == (COUNT, COUNT, 1)


def test_two_ranks_write_the_file_of_one(folder, expected):
    run_in_processes(main, 2, words(folder, "two"))

    files = [folder / name / "predictions.jsonl" for name in ("one", "two")]
    assert files[1].read_text() == files[0].read_text()


def test_the_exported_folder_answers_alike_on_one_rank_and_on_two(folder, expected):
    main(words(folder, "exported_one", model="exported"))
    run_in_processes(main, 2, words(folder, "exported_two", model="exported"))

    assert answers(folder, "exported_one") == expected
    files = [folder / f"exported_{name}" / "predictions.jsonl" for name in ("one", "two")]
    assert files[1].read_text() == files[0].read_text()


def test_a_killed_evaluation_goes_on_without_repeating_a_question(folder, expected):
    arguments = words(folder, "killed", "--batch-size", "1")
    command = [sys.executable, "evaluate_owl3.py", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    file = folder / "killed/predictions.jsonl"
    deadline = time.monotonic() + 120
    while not file.is_file() or file.read_text().count("\n") < 3:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "no question is answered"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = file.read_text()
    assert 3 <= before.count("\n") < COUNT

    main(arguments)

    assert answers(folder, "killed") == expected
    complete = before[: before.rfind("\n") + 1]
    assert file.read_text().startswith(complete)
