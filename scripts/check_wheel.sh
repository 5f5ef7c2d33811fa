#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the wheel, installs it into an empty environment outside the checkout and uses it there:
# prints a run, trains 3 steps on the demo and 2 more on two processes, checks the demo's shards.
# Takes about 3 minutes on two cores. Needs the .venv of setup_env.sh, whose versions it installs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

checkout="$PWD"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" PIP_DISABLE_PIP_VERSION_CHECK=1 TQDM_DISABLE=1

step() { printf '\n== %s  (%d:%02d)\n' "$*" $((SECONDS / 60)) $((SECONDS % 60)); }

step "1/4 Wheel"
# From a copy: a build/ folder in the checkout would add modules that no longer exist.
mkdir "$work/source"
cp -r owl configs setup.py pyproject.toml README.md LICENSE "$work/source"
.venv/bin/python -m pip wheel -qq --no-deps --no-build-isolation \
  --wheel-dir "$work" "$work/source"

step "2/4 Empty environment"
torch="$(.venv/bin/python -c 'import torch; print(torch.__version__.partition("+")[0])')"
.venv/bin/python -m venv "$work/env"
export PATH="$work/env/bin:$PATH"
pip install -qq --no-compile "torch==$torch"
pip install -qq --no-compile --constraint requirements/lock.txt "$(echo "$work"/*.whl)[demo]"

step "3/4 Training"
mkdir "$work/elsewhere"
cd "$work/elsewhere"
python -c "import owl, sys; sys.exit(owl.__file__.startswith('$checkout'))"
owl --help
owl train --cfg job > job.yaml
owl train +experiment=stage1 output=runs/stage1 stage.train_steps=3
torchrun --standalone --nproc-per-node 2 --no-python owl train \
  +experiment=stage1 output=runs/stage1 stage.train_steps=5 parallel=tp2

step "4/4 Data tools"
owl data lint demo_data/shards/stage1
step "The wheel works"
