#!/usr/bin/env bash
# A Slurm job: one task per GPU, which find each other by Slurm's own variables.
#
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 --cpus-per-task=8 --time=24:00:00 \
#       launch/slurm.sh --config=configs/r3d_r2plus1d_18_kinetics400.py --workdir=/shared/runs/r2plus1d
#
# On CPU nodes: --ntasks-per-node=1 and no GPUs. Activate vidjax's environment first, sbatch carries it along. The
# workdir and the data must be where every node sees them. Two minutes before the time limit all tasks get a TERM, save
# the same step and exit with 75; on 75 to 77, or if a task was killed, the job is queued again, RESTARTS times (20) at
# most. `scancel JOB` ends it for good; `scancel --signal=TERM JOB` makes it save and queue again. JAX gives each task
# the GPU of its number on the node, so leave --gpus-per-task and --gpu-bind out: they hide the others.
#SBATCH --job-name=vidjax
#SBATCH --output=%x_%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -uo pipefail

stop=''
trap 'stop=yes' TERM # scancel, or a preemption, after which Slurm itself queues the job again
echo "slurm.sh: job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)), on ${SLURM_JOB_NODELIST:-?}"
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" # srun does not take it from sbatch
srun --kill-on-bad-exit=0 --wait=300 vidjax train "$@" --coordinator=auto
code=$?
if [[ ! $stop ]] && (((code >= 75 && code <= 77 || code > 128) && ${SLURM_RESTART_COUNT:-0} < ${RESTARTS:-20})); then
    echo "slurm.sh: exit code $code; queueing the job again"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
