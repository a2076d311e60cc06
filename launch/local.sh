#!/usr/bin/env bash
# Trains with N processes on this machine, as a rehearsal of several hosts:
#
#   launch/local.sh 2 --config=configs/quickstart.py --workdir=runs/two
#
# Each process takes its own devices (on CPU: one each). They meet at a free port of localhost. If one fails with an
# error, the rest are ended and the script exits with its code; if one is lost or stuck, the others notice and end too,
# and all are started again. TERM or Ctrl-C saves and exits with 75. RESTARTS and PAUSE: see again.sh.
set -euo pipefail

if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: launch/local.sh N --config=FILE --workdir=DIR [--config.KEY=VALUE ...]" >&2
    exit 2
fi
[[ ${LOCAL_ONCE:-} ]] || LOCAL_ONCE=yes exec "$(dirname "$0")/again.sh" "$0" "$@"
processes=$1
shift
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')

pids=() result=0
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT # all save the same step
trap 'kill -KILL "${pids[@]}" 2>/dev/null || true' EXIT
for ((process = 0; process < processes; process++)); do
    vidjax train "$@" --coordinator="localhost:$port" --processes="$processes" --process="$process" &
    pids+=($!)
done

for ((left = processes; left > 0; left--)); do
    ended='' code=0
    wait -n -p ended || code=$?
    if [[ ! ${ended:-} ]]; then # a signal ended the wait, no process did
        left=$((left + 1))
    elif ((code >= 75 && code <= 77 || code > 128)); then # the others end by themselves: they save, or miss this one
        result=$((result ? result : code))
    elif ((code != 0)); then
        exit "$code"
    fi
done
exit "$result"
