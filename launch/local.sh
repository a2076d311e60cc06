#!/usr/bin/env bash
# Trains with N processes on this machine, as a rehearsal of several hosts:
#
#   launch/local.sh 2 --config=configs/quickstart.py --workdir=runs/two
#
# Each process takes its own devices (on CPU: one each). They meet at a free port of localhost; if one fails, the rest
# are ended and the script exits with its code. Exit code 75: a signal stopped the run after it was saved; run it again.
set -euo pipefail

if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: launch/local.sh N --config=FILE --workdir=DIR [--config.KEY=VALUE ...]" >&2
    exit 2
fi
processes=$1
shift
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')

pids=() signalled= result=0
trap 'signalled=yes; kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT # all save the same step
trap 'kill -KILL "${pids[@]}" 2>/dev/null || true' EXIT
for ((process = 0; process < processes; process++)); do
    vidjax train "$@" --coordinator="localhost:$port" --processes="$processes" --process="$process" &
    pids+=($!)
done

for ((left = processes; left > 0; left--)); do
    code=0
    wait -n || code=$?
    if [[ $signalled ]]; then # the signal ended the wait, no process did
        signalled=
        left=$((left + 1))
    elif ((code == 75)); then
        result=75
    elif ((code != 0)); then
        exit "$code"
    fi
done
exit "$result"
