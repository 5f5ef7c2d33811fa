# SPDX-License-Identifier: Apache-2.0
"""Training gives the losses and gradient norms that are recorded in tests/golden/losses."""

import json

import pytest

from tests.golden.record import CURVES, FOLDER, curve

TOLERANCE = 1e-11
"""Relative. Other thread counts and instruction sets (none, SSE4.2, AVX2) moved a figure by 2e-16;
other BLAS libraries may add up in an order of their own."""


@pytest.mark.parametrize("name", CURVES)
def test_losses_and_gradient_norms_are_the_recorded_ones(name):
    recorded = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))

    computed = curve(name)

    hint = (
        f"{name}: training gives other numbers than before. If that is intended, explain it under "
        f"Numerics in CHANGELOG.md and run: python -m tests.golden.record {name}"
    )
    for stage, quantities in recorded.items():
        for quantity, figures in quantities.items():
            expected = pytest.approx(figures, rel=TOLERANCE)
            assert computed[stage][quantity] == expected, f"{hint} ({stage}, {quantity})"
