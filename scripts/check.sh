#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Lint, format and types; all three run even when one fails. Needs the .venv of setup_env.sh.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

failed=0
printf '\n== Lint (ruff check)\n'
.venv/bin/ruff check . || failed=1
printf '\n== Format (ruff format)\n'
.venv/bin/ruff format --check . || failed=1
printf '\n== Types (mypy)\n'
.venv/bin/mypy || failed=1
exit "$failed"
