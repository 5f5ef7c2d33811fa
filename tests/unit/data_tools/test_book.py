# SPDX-License-Identifier: Apache-2.0
"""1,000 pages with figures go from a folder to training by the commands of docs/data_tools.md."""

import json
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.unit.data.shard_factory import picture, write_tokenizer
from tests.unit.data_tools.command import REPOSITORY

PAGES = 1000
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="60" height="40"><circle r="20"/></svg>'
OUTCOMES = {
    "good.png": None,
    "good.jpg": None,
    "drawn.svg": None if find_spec("resvg_py") else "E307",
    "lost.png": "E302",
    "torn.png": "E308",
}
"""Figure -> the code by which it is left out; None where it is shown."""
SECTION = "## All of it on a book of 1,000 pages"


def write_book(folder: Path) -> Counter:
    """Write pages of two figures each; return how often each figure is named."""
    (folder / "img").mkdir(parents=True)
    (folder / "img/good.png").write_bytes(picture(60, 40, codec="PNG"))
    (folder / "img/good.jpg").write_bytes(picture(60, 40))
    (folder / "img/drawn.svg").write_bytes(SVG)
    (folder / "img/torn.png").write_bytes(picture(60, 40, codec="PNG")[:90])
    names, named = list(OUTCOMES), Counter()
    for page in range(PAGES):
        first, second = names[page % 5], names[page // 5 % 5]
        named.update([first, second])
        words = f"Page {page} is about owls. " * 12
        chapter = folder / f"chapter-{page // 100}"
        chapter.mkdir(exist_ok=True)
        if page % 2:
            text = f"# Page {page}\n\n{words}\n\n![first](../img/{first})\n\n{words}"
            (chapter / f"page-{page}.md").write_text(f"{text}![](/img/{second})\n")
        else:
            figures = f"<img src='../img/{first}'><p>{words}</p><img src='/img/{second}'>"
            (chapter / f"page-{page}.html").write_text(f"<h1>Page {page}</h1>{figures}")
    return named


def commands() -> list[list[str]]:
    """The commands of the page, with the value of $run."""
    page = (REPOSITORY / "docs/data_tools.md").read_text(encoding="utf-8")
    block = re.search(rf"{SECTION}.*?```sh\n(.*?)```", page, re.DOTALL)[1]
    run = re.search(r'run="(.*?)"\n', block, re.DOTALL)[1]
    return [
        [sys.executable, "-m", "owl.command", *shlex.split(line.replace("$run", run))[1:]]
        for line in block.splitlines()
        if line.startswith("owl ")
    ]


def steps(folder: Path) -> list[int]:
    file = folder / "runs/book/metrics.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("}")]


def kill_after(step: int, command: list[str], folder: Path) -> None:
    """Start a training and kill it once it has taken a step."""
    running = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    try:
        while step not in steps(folder):
            assert running.poll() is None
            time.sleep(0.05)
    finally:
        running.kill()
        running.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_book_goes_from_its_folder_to_training(tmp_path):
    named = write_book(tmp_path / "book")
    write_tokenizer(tmp_path / "tokenizer")
    printed = {}
    for command in commands():
        name = command[4] if command[3] == "data" else command[3]
        if name == "train":
            kill_after(12, command, tmp_path)
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        printed[name] = done.stdout + done.stderr
        assert done.returncode == 0, printed[name]

    lost = Counter()
    for figure, code in OUTCOMES.items():
        lost[code] += named[figure]
    shown = lost.pop(None)
    assert shown + lost.total() == 2 * PAGES
    codes = ", ".join(f"{code} {count}" for code, count in sorted(lost.items()))
    counted = (
        f"pictures and videos: {shown} shown, {lost.total()} missing or damaged left out ({codes})"
    )
    assert counted in printed["convert"]
    assert f"{PAGES} samples: {PAGES} good, 0 bad" in printed["lint"]
    assert sorted(set(steps(tmp_path))) == list(range(1, 31))
    assert "resum" in printed["train"]
    assert "data:image/" in (tmp_path / "preview.html").read_text()
