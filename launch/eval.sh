#!/usr/bin/env bash
# Follows a run: evaluates each new checkpoint of a workdir, while the training goes on elsewhere.
#
#   launch/eval.sh --workdir=runs/r2plus1d [--config.eval.clips=10 ...]
#
# Looks every PAUSE seconds (30) for steps without a report_<step>.json, oldest first, and ends after the run's
# last. A checkpoint that training deletes meanwhile is left out. A run that evaluates itself less often is faster: give
# `vidjax train` a large --config.eval.every.
set -euo pipefail

workdir=''
for word in "$@"; do
    [[ $word != --workdir=* ]] || workdir=${word#--workdir=}
done
if [[ ! $workdir ]]; then
    echo "usage: launch/eval.sh --workdir=DIR [--config.KEY=VALUE ...]" >&2
    exit 2
fi
last=''
while [[ ! $last || ! -e $workdir/report_$last.json ]]; do
    if [[ -e $workdir/config.json ]]; then
        last=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["steps"])' "$workdir/config.json")
    fi
    found=''
    for step in $(cd "$workdir/checkpoints" 2>/dev/null && printf '%s\n' * | grep -xE '[0-9]+' | sort -n); do
        [[ ! -e $workdir/report_$step.json ]] || continue
        found=yes code=0
        vidjax eval "$@" --step="$step" || code=$?
        if ((code != 0)) && [[ -d $workdir/checkpoints/$step ]]; then
            exit "$code"
        fi
    done
    [[ $found ]] || sleep "${PAUSE:-30}"
done
