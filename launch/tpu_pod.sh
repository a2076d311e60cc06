#!/usr/bin/env bash
# Trains on all hosts of a TPU pod slice, from your own computer, by gcloud:
#
#   launch/tpu_pod.sh my-v5e-16 us-west4-a --config=configs/videomae_motion.py --workdir=/runs/videomae
#
# Every host needs ~/vidjax, a checkout with its environment in ~/vidjax/.venv, and the same /runs and data mounted
# (README.md here). Each host starts the command in the background, again as again.sh says, and appends to ~/vidjax.log;
# your computer may sleep. SIGTERM=yes launch/tpu_pod.sh NAME ZONE makes the run save and stop.
set -euo pipefail

if [[ $# -lt 2 || $1 == -* || $2 == -* ]]; then
    echo "usage: launch/tpu_pod.sh NAME ZONE --config=FILE --workdir=DIR [--config.KEY=VALUE ...]" >&2
    exit 2
fi
on_all=(gcloud compute tpus tpu-vm ssh "$1" --zone="$2" --worker=all)
follow="gcloud compute tpus tpu-vm ssh $1 --zone=$2 --worker=0 --command='tail -F vidjax.log'"
shift 2
if [[ ${SIGTERM:-} ]]; then
    # shellcheck disable=SC2016 # the other shell expands it
    exec "${on_all[@]}" --command='kill -TERM "$(cat ~/vidjax.pid)"'
fi
arguments=$(printf ' %q' "$@") # quoted once more, for the shell over there
environment="RESTARTS=${RESTARTS:-20} PAUSE=${PAUSE:-10} JAX_PLATFORMS=tpu"
echo "tpu_pod.sh: its log: $follow"
run="$environment setsid nohup launch/again.sh vidjax train$arguments --coordinator=auto"
run="{ $run >>~/vidjax.log 2>&1 </dev/null & echo \$! >~/vidjax.pid; }"
"${on_all[@]}" --command="cd ~/vidjax && . .venv/bin/activate && $run"
