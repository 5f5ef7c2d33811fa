# SPDX-License-Identifier: Apache-2.0
import io

import pytest

from owl.progress import Progress, duration


def test_a_line_comes_when_the_last_is_long_ago_and_says_what_is_left():
    seconds = iter([0.0, 1.0, 10.0, 11.0])
    out = io.StringIO()
    progress = Progress(100, "linted", stream=out, clock=lambda: next(seconds))
    progress.add(10, "a.tar")
    progress.add(15, "b.tar")
    progress.add(25, "c.tar")
    assert out.getvalue() == "linted 25%, 30 s left, last b.tar\n"


@pytest.mark.parametrize(
    ("seconds", "words"), [(42.4, "42 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_times_are_written_the_way_people_say_them(seconds, words):
    assert duration(seconds) == words
