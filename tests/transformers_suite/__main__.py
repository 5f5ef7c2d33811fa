# SPDX-License-Identifier: Apache-2.0
"""Run transformers' own test suites on owl.hf, and count what fails.

    git clone --depth 1 --branch v5.24.0 https://github.com/huggingface/transformers DIR
    pip install parameterized
    python -m tests.transformers_suite DIR

DIR is a checkout of the installed release, or a folder with its `tests`. Prints a line for each
class of tests and one for each test that fails; exits with 1 if one of them is not in explained.py.
Half a minute for the models, a few for the processors.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

from tests.transformers_suite.explained import MODELS, PROCESSORS, SPLICED

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SUITES = {"owl3_models": MODELS, "owl3_processors": PROCESSORS, "spliced_models": SPLICED}
Results = dict[str, tuple[str, str]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.transformers_suite")
    parser.add_argument("checkout", type=Path, help="of transformers, at the installed release")
    parser.add_argument("--only", choices=SUITES, help="one suite (default: all)")
    parser.add_argument("-k", default="", help="pytest's: run the tests that match")
    options = parser.parse_args()
    unexplained = 0
    with tempfile.TemporaryDirectory() as work:
        tree = assemble(options.checkout, Path(work))
        for suite in [options.only] if options.only else SUITES:
            unexplained += report(run(tree, suite, options.k), SUITES[suite])
    return min(unexplained, 1)


def assemble(checkout: Path, work: Path) -> Path:
    """Copy transformers' shared tests without those of its models, and add the suites."""
    if not (checkout / "tests/test_modeling_common.py").is_file():
        sys.exit(f"{checkout} holds no tests/test_modeling_common.py: give a git checkout.")
    leave = shutil.ignore_patterns("models", "fixtures", "__pycache__")
    for part in ("tests", "utils"):
        if (checkout / part).is_dir():
            shutil.copytree(checkout / part, work / part, ignore=leave)
    folder = work / "tests/models/owl"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent):
        (package / "__init__.py").touch()
    for suite in SUITES:
        shutil.copy(HERE / f"{suite}.py", folder / f"test_{suite}.py")
    shutil.copy(HERE / "record.py", folder / "conftest.py")
    shutil.copytree(ROOT / "tests/golden/qwen2-tokenizer-small", work / "tokenizer")
    return work


def run(tree: Path, suite: str, chosen: str) -> Results:
    """Run one suite in a process of its own; `tests` there is transformers' package."""
    results = tree / f"{suite}.json"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (tree, tree / "utils", ROOT))),
        "OWL_RESULTS": str(results),
        "OWL_FOLDER": str(tree / "tokenizer"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=native"]
    command += ["-k", chosen, f"tests/models/owl/test_{suite}.py"]
    done = subprocess.run(
        command, cwd=tree, env=environment, text=True, capture_output=True, check=False
    )
    if not results.is_file():
        sys.exit(done.stdout[-2000:] + done.stderr[-2000:])
    return json.loads(results.read_text(encoding="utf-8"))


def report(results: Results, explained: dict[str, str]) -> int:
    """Print counts and failures; returns how many tests fail without an explanation."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    failed: dict[str, list[str]] = defaultdict(list)
    for test, (outcome, reason) in results.items():
        _, kind, name = test.split("::")
        counts[kind][outcome] += 1
        if outcome == "failed":
            failed[name].append(reason)
    for kind, count in counts.items():
        print(f"{kind}: {count['passed']} pass, {count['failed']} fail, {count['skipped']} skipped")
    unexplained = 0
    for name, reasons in failed.items():
        why = explained.get(re.sub(r"_\d+(_.*)?$", "", name))
        unexplained += why is None
        print(f"  {name} ({len(reasons)}): {why or 'NOT EXPLAINED: ' + reasons[0][:200]}")
    return unexplained


if __name__ == "__main__":
    raise SystemExit(main())
