#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up .venv when needed, then runs lint, types and tests, as CI does. Arguments go to pytest, such
# as `scripts/test.sh tests/unit`. LINT=0 leaves lint and types out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup_env.sh

# Many small processes share the cores in distributed tests: one thread each is fastest.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

lint_failed=0
if [[ "${LINT:-1}" == 1 ]]; then
  scripts/check.sh || lint_failed=1
fi

printf '\n== Tests\n'
tests_failed=0
# A file's tests stay in one worker, because they share a process group; WORKERS=0 uses none.
.venv/bin/python -m pytest -n "${WORKERS:-2}" --dist loadfile "$@" || tests_failed=$?

if [[ "$lint_failed" == 1 ]]; then
  echo "Lint or types failed: see above, or run make check." >&2
  exit 1
fi
exit "$tests_failed"
