#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes .venv with pinned versions, or does nothing when .venv already has them.
# Safe to run twice, and to run again after it was interrupted. PYTHON=... chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

TORCH="torch==2.13.0"
LOCK="requirements/lock.txt"
STAMP=".venv/.installed"

find_python() {
  for candidate in ${PYTHON:-} python3.11 python3.12 python3; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
        2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "No Python 3.11 or 3.12 found. Install one, or name it: PYTHON=/path/to/python $0" >&2
  exit 1
}

# What the environment was made from: when any of it changes, packages are installed again.
fingerprint() {
  { echo "$TORCH"; cat "$LOCK" setup.py; pwd; } | sha256sum | cut -d' ' -f1
}

step() { printf '\n== %s\n' "$*"; }

wanted="$(fingerprint)"
if [[ -f "$STAMP" && "$(cat "$STAMP")" == "$wanted" ]]; then
  echo "Environment .venv is up to date."
  exit 0
fi

if [[ ! -x .venv/bin/python ]]; then
  python="$(find_python)"
  step "1/4 Making .venv with $("$python" --version)"
  "$python" -m venv .venv
else
  step "1/4 Using the existing .venv"
fi
pip=(.venv/bin/python -m pip --disable-pip-version-check)

step "2/4 Installing $TORCH (the largest part)"
"${pip[@]}" install "$TORCH"
step "3/4 Installing the pinned packages of $LOCK"
"${pip[@]}" install -r "$LOCK"
step "4/4 Linking this checkout as the package owl"
"${pip[@]}" install --no-deps --no-build-isolation -e .

echo "$wanted" > "$STAMP"
echo "Environment .venv is ready: source .venv/bin/activate"
