#!/usr/bin/env bash
# Trains on hosts with Open MPI 4, one process per slot, started again as again.sh says:
#
#   launch/openmpi.sh node1:8,node2:8 --config=configs/r3d_r2plus1d_18_kinetics400.py --workdir=/shared/runs/r2plus1d
#
# Slots are GPUs (JAX gives each process the one of its number on the host), or 1 per CPU host. Open MPI 5 also needs
# `pip install mpi4py` and JAX 0.12. mpirun would pin each process to one core, draw progress bars into logs, and kill
# one second after a TERM or a lost process: the options below leave all cores, draw none, and give GRACE seconds (30)
# to save, which always pass. MPIRUN_OPTIONS is added, such as "--allow-run-as-root".
set -euo pipefail

if [[ $# -lt 2 || $1 == -* ]]; then
    echo "usage: launch/openmpi.sh HOST:SLOTS[,HOST:SLOTS ...] --config=FILE --workdir=DIR [--config.KEY=VALUE ...]" >&2
    exit 2
fi
hosts=$1
shift
read -ra options <<<"${MPIRUN_OPTIONS:-}"
options+=(--host "$hosts" --bind-to none --mca odls_base_sigkill_timeout "${GRACE:-30}" -x PATH -x TERM=dumb)
exec "$(dirname "$0")/again.sh" mpirun "${options[@]}" vidjax train "$@" --coordinator=auto
