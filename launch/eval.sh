#!/usr/bin/env bash
# Follows a run: evaluates each new checkpoint of a workdir once, while the training goes on elsewhere.
#
#   launch/eval.sh --workdir=runs/r2plus1d [--protocol=own,slowfast_10x3] [--config.eval.clips=10 ...]
#
# Ends after the checkpoint of the run's last step, and is started again as `again.sh` says: what has a report, or is
# half done, is not done again. A run that evaluates itself less often is faster: give `vidjax train` a large
# --config.eval.every.
set -euo pipefail

if [[ " $*" != *" --workdir="* ]]; then
    echo "usage: launch/eval.sh --workdir=DIR [--protocol=NAME,...] [--config.KEY=VALUE ...]" >&2
    exit 2
fi
exec "$(dirname "$0")/again.sh" vidjax eval --watch "$@"
