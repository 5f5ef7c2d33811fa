#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# One machine: starts a script on PROCESSES processes (default: one per GPU, 1 without GPU).
#   PROCESSES=2 scripts/launch.sh pretrain_owl3.py +experiment=stage1 parallel=tp2
#   PROCESSES=2 scripts/launch.sh --no-python owl train +experiment=stage1 parallel=tp2
set -euo pipefail
[[ $# -gt 0 ]] || { sed -n '3,5p' "$0"; exit 2; }

command -v torchrun > /dev/null || { echo "No torchrun: source .venv/bin/activate" >&2; exit 1; }

gpus="$(nvidia-smi --list-gpus 2>/dev/null | wc -l || true)"
processes="${PROCESSES:-$(( gpus > 0 ? gpus : 1 ))}"
# Tensor parallelism overlaps its collectives with compute only with one connection to the device.
export CUDA_DEVICE_MAX_CONNECTIONS="${CUDA_DEVICE_MAX_CONNECTIONS:-1}"
exec torchrun --standalone --nproc-per-node "$processes" "$@"
