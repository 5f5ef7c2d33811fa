# SPDX-License-Identifier: Apache-2.0
.PHONY: env check format test wheel

env:     ## make .venv with pinned versions
	scripts/setup_env.sh

check: env  ## lint, format and types
	scripts/check.sh

format: env  ## fix and format files as check requires
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

test:    ## lint, types and every test
	scripts/test.sh

wheel: env  ## build the wheel and use it in an empty environment, as CI does
	scripts/check_wheel.sh
