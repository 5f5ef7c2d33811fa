# SPDX-License-Identifier: Apache-2.0
"""Work on weights in threads: all of it, once, and an error ends it."""

import time
from threading import Barrier, current_thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from owl.checkpoint.threads import THREADS, in_threads, shares


@given(sizes=st.dictionaries(st.text(), st.integers(0, 10**12)))
def test_shares_hold_everything_in_order_and_about_as_much_each(sizes):
    shared = shares(sizes)
    assert [name for share in shared for name in share] == list(sizes)
    assert len(shared) <= THREADS
    most = sum(sizes.values()) / THREADS + max(sizes.values(), default=0)
    assert all(sum(sizes[name] for name in share) <= most for share in shared)


def test_shares_are_worked_on_together_and_results_keep_their_order():
    together = Barrier(3, timeout=10)  # breaks unless three threads meet

    def work(number, items, raise_if_cancelled):
        together.wait()
        return number, items, current_thread().name

    results = in_threads(work, [[1, 2], [3], [4, 5]])
    assert [result[:2] for result in results] == [(0, [1, 2]), (1, [3]), (2, [4, 5])]
    assert len({name for _, _, name in results}) == 3


def test_nothing_to_do_is_done():
    assert in_threads(lambda number, items, raise_if_cancelled: items, shares({})) == []


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_an_error_is_raised_and_the_others_do_not_go_on(kind):
    met, done = Barrier(2, timeout=10), []

    def work(number, items, raise_if_cancelled):
        for item in items:
            raise_if_cancelled()
            done.append(item)
            if item == 0:
                met.wait()
            if number == 1:
                met.wait()
                raise kind("no room")
            time.sleep(0.001)  # so the other share would take seconds

    with pytest.raises(kind, match="no room"):
        in_threads(work, [range(5_000), [-1]])
    assert len(done) < 5_000
