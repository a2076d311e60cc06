#!/usr/bin/env bash
# Runs a command, and starts it again where it ends with a code after which the same command goes on:
#
#   launch/again.sh vidjax train --config=configs/quickstart.py --workdir=runs/quickstart
#
# 75 a signal stopped it after it was saved, 76 it lost a peer, 77 it was stuck, over 128 a signal ended it (kill -9, an
# abort, a lack of memory). Other codes are the end: 0 done, 1 an error whose sentence it printed, 2 wrong usage.
# TERM or Ctrl-C to this script means stop: they are passed on, the run saves, and its code becomes this script's.
# At most RESTARTS times (20; 0 for never), PAUSE seconds (10) before each.
set -euo pipefail

left=${RESTARTS:-20} stop='' signalled='' child=''
note() {
    stop=yes signalled=yes
    [[ ! $child ]] || kill -TERM "$child" 2>/dev/null || true
}
trap note TERM INT

while true; do
    "$@" &
    child=$!
    [[ ! $stop ]] || kill -TERM "$child"
    while true; do
        signalled='' code=0
        wait "$child" || code=$?
        if [[ ! $signalled ]] || ((code <= 128)); then break; fi # else the signal ended the wait, not the command
    done
    if [[ $stop ]] || ((left == 0 || (code < 75 || code > 77) && code <= 128)); then
        exit "$code"
    fi
    left=$((left - 1))
    echo "again.sh: exit code $code; starting it again in ${PAUSE:-10} s, $left more times at most" >&2
    sleep "${PAUSE:-10}" &
    child=$!
    [[ $stop ]] || wait "$child" || true
    if [[ $stop ]]; then
        kill "$child" 2>/dev/null || true
        exit "$code"
    fi
done
