#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From a fresh clone to a small Owl3 that has learned to read handwritten digits: environment, data,
# both training stages with tensor parallelism on two processes, an export that transformers loads,
# and a table of held-out accuracy.
# Safe to stop and to run again: finished steps are kept, and training resumes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

run=runs/quickstart

step() { printf '\n== %s  (%d:%02d)\n' "$*" $((SECONDS / 60)) $((SECONDS % 60)); }
train() {
  torchrun --standalone --nproc-per-node 2 pretrain_owl3.py parallel=tp2 log.every_steps=20 "$@"
}
evaluate() { python -m owl.demo evaluate --run "$run" --stage "$1" --checkpoint "$2"; }

step "1/9 Environment"
scripts/setup_env.sh
export PATH="$PWD/.venv/bin:$PATH"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"  # two processes share the cores
export TQDM_DISABLE=1  # transformers draws a bar for each model it loads

step "2/9 Pictures, text, and the two tiny models that Owl3 starts from"
python -m owl.demo prepare
step "3/9 Held-out questions before training"
evaluate start demo_data/start

step "4/9 Stage 1: language model and vision frozen"
train +experiment=stage1 output="$run/stage1"
step "5/9 Held-out questions after stage 1"
evaluate stage1 "$run/stage1"

step "6/9 Stage 2: several pictures, the language model learns too"
train +experiment=stage2 output="$run/stage2" checkpoint.start_from="$run/stage1"
step "7/9 Held-out questions after stage 2"
evaluate stage2 "$run/stage2"

step "8/9 Export, and the same questions through transformers"
python -m owl.convert export --checkpoint "$run/stage2" --output "$run/exported" \
  --base demo_data/tokenizer --replace
evaluate exported "$run/exported"
python -m owl.demo picture --output "$run/held_out_digit.png"
printf 'owl chat --ask "What is this digit?" answers: '
python -m owl.chat --model "$run/exported" --image "$run/held_out_digit.png" --no-cut \
  --ask "What is this digit?"

step "9/9 Report"
python -m owl.demo report --run "$run" --seconds "$SECONDS"
