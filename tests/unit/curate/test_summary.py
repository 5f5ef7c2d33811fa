# SPDX-License-Identifier: Apache-2.0
import numpy as np

from owl.curate.summary import distribution


def test_bins_double_and_hold_every_value():
    values = np.array([0, 1, 2, 3, 4, 5, 8, 9, 16, 17])
    made = distribution("x", values)
    assert made.bins == [
        ("0", 1),
        ("1", 1),
        ("2", 1),
        ("3-4", 2),
        ("5-8", 2),
        ("9-16", 2),
        ("17-32", 1),
    ]
    assert (made.count, made.total, made.middle, made.most) == (10, 65, 4, 17)


def test_empty_bins_in_the_middle_stay_and_those_before_the_first_do_not():
    assert distribution("x", np.array([3, 20])).bins == [
        ("3-4", 1),
        ("5-8", 0),
        ("9-16", 0),
        ("17-32", 1),
    ]


def test_nothing_has_no_bins():
    assert distribution("x", np.zeros(0, np.int64)).bins == []
