# SPDX-License-Identifier: Apache-2.0
"""A change that adds a gigabyte, a kernel a layer or a wait fails here."""

import json
from pathlib import Path

import pytest

from tests.rehearsal.layouts import BUDGETS, LAYOUTS, PACKS, budget, rehearse


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_step_stays_within_its_budget(name: str, tmp_path: Path) -> None:
    figures = rehearse([*LAYOUTS[name], *PACKS], tmp_path)
    allowed, found = json.loads(BUDGETS.read_text())[name], budget(figures)
    assert found["peak_bytes"] == pytest.approx(allowed["peak_bytes"], rel=0.02), (
        figures["peak_where"],
        figures["memory"],
    )
    assert found["waits"] == allowed["waits"], figures["waits"]
    assert found["blocking_copies"] == allowed["blocking_copies"], figures["blocking_copies"]
    assert found["collectives"] == allowed["collectives"]
    assert found["kernels"] == pytest.approx(allowed["kernels"], rel=0.01), figures["work"]
