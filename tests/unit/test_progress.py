# SPDX-License-Identifier: Apache-2.0
"""One display of progress for every long command."""

import io
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from owl.progress import Progress, print_beside_progress


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, for the test to change."""
    now = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def test_a_line_comes_every_few_seconds_and_at_the_end(now):
    lines: list[str] = []
    progress = Progress("import", 4_000_000, lines.append)

    for now[0] in (1.0, 6.0, 7.0, 20.0):
        progress.advance(1_000_000)

    assert lines == [
        "import 50% | 2.00MB of 4.00MB | 333kB/s | 00:06 left",
        "import 100% | 4.00MB of 4.00MB | 200kB/s | took 00:20",
    ]


def test_what_was_done_before_counts_but_not_in_the_speed(now):
    lines: list[str] = []
    progress = Progress("convert", 1000, lines.append)

    progress.skip(200)
    now[0] = 10.0
    progress.advance(400, "50 samples, 2 rejected")

    assert lines == ["convert 60% | 600B of 1.00kB | 40.0B/s | 00:10 left, 50 samples, 2 rejected"]


def test_the_end_is_reported_once_however_short_the_work_and_though_not_all_was_counted(now):
    lines: list[str] = []
    progress = Progress("verify", 1000, lines.append)

    progress.advance(999)
    now[0] = 1.0
    progress.finish()
    progress.finish()

    assert lines == ["verify 100% | 1.00kB of 1.00kB | 1.00kB/s | took 00:01"]


def test_no_byte_is_lost_between_threads(now):
    lines: list[str] = []
    progress = Progress("import", 10_001, lines.append)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(progress.advance, [1] * 10_000))

    assert lines == []
    now[0] = 2.0
    progress.advance(1)
    assert len(lines) == 1


def test_lines_go_to_standard_error_unless_it_is_a_terminal(capsys, now):
    progress = Progress("lint", 10)

    for now[0] in (6.0, 7.0):
        progress.advance(5)

    assert capsys.readouterr().err.splitlines() == [
        "lint 50% | 5.00B of 10.0B | 0.83B/s | 00:06 left",
        "lint 100% | 10.0B of 10.0B | 1.43B/s | took 00:07",
    ]


def test_short_work_leaves_standard_error_empty(capsys):
    Progress("lint", 10).advance(10)

    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_and_lines_beside_it_do_not_break_it(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)

    progress = Progress("lint", 10)
    progress.advance(5)
    print_beside_progress("a.tar")
    progress.finish()

    assert "a.tar\n" in terminal.getvalue()
    last = terminal.getvalue().split("\r")[-1]
    assert last.startswith("lint: 100%|")
    assert last.endswith("\n")
