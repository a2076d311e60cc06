#!/usr/bin/env bash
# Trains on one machine with all its GPUs: one process that feeds them all, started again as again.sh says.
#
#   launch/gpu_node.sh --config=configs/r3d_r2plus1d_18_kinetics400.py --workdir=runs/r2plus1d --config.mesh.data=-1
#
# CUDA_VISIBLE_DEVICES=0,1 takes those two alone. Batch size and learning rate are the config's, however many there are.
set -euo pipefail

if ! command -v nvidia-smi >/dev/null; then
    echo "gpu_node.sh: there is no nvidia-smi here, so no NVIDIA driver; on a CPU use launch/local.sh." >&2
    exit 1
fi
nvidia-smi --query-gpu=index,name,memory.total,driver_version --format=csv
export JAX_PLATFORMS=cuda # fail rather than train on the CPU
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}" # taken at the start
exec "$(dirname "$0")/again.sh" vidjax train "$@"
