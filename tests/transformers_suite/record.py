# SPDX-License-Identifier: Apache-2.0
"""A conftest in the tree of transformers' tests: writes each test's outcome to OWL_RESULTS."""

import json
import os
from pathlib import Path

_results: dict[str, tuple[str, str]] = {}
_ORDER = ("passed", "skipped", "failed")


def pytest_runtest_logreport(report):
    if report.when != "call" and report.outcome == "passed":
        return
    known = _results.get(report.nodeid, ("passed", ""))
    if _ORDER.index(report.outcome) >= _ORDER.index(known[0]):  # a subtest's failure counts
        _results[report.nodeid] = (report.outcome, _reason(report) or known[1])


def _reason(report) -> str:
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        return report.longrepr[2]
    crash = getattr(report.longrepr, "reprcrash", None)
    return getattr(crash, "message", str(report.longrepr or "")[-300:]).split("\n")[0]


def pytest_sessionfinish(session):
    Path(os.environ["OWL_RESULTS"]).write_text(json.dumps(_results, indent=1), encoding="utf-8")
