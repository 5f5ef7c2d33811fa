# SPDX-License-Identifier: Apache-2.0
.PHONY: env check format test

env:     ## make .venv with pinned versions
	scripts/setup_env.sh

check: env  ## lint, format and types
	scripts/check.sh

format: env  ## rewrite files the way check wants them
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

test:    ## everything CI runs
	scripts/test.sh
