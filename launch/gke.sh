#!/usr/bin/env bash
# Submits a run to a Kubernetes cluster that has JobSet, TPU slices by default:
#
#   launch/gke.sh NAME IMAGE --config=configs/videomae_motion.py --workdir=/runs/NAME
#   JOBSET=launch/gke_jobset_gpu.yaml launch/gke.sh NAME IMAGE --config=... --workdir=/runs/NAME
#
# Fills NAME, IMAGE and ARGUMENTS into the YAML; hosts, chips and machine types are there to be edited. IMAGE has vidjax
# installed and the configs in its working folder. The volume claim `vidjax` (ReadWriteMany) is mounted at /runs.
set -euo pipefail

if [[ $# -lt 3 || ! $1 =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ || $2 == -* ]]; then
    echo "usage: launch/gke.sh NAME IMAGE --config=FILE --workdir=/runs/NAME; a name has a-z, 0-9 and -" >&2
    exit 2
fi
name=$1 image=$2
shift 2
arguments=$(python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$@") # JSON is YAML
jobset=$(<"${JOBSET:-$(dirname "$0")/gke_jobset.yaml}")
jobset=${jobset//NAME/"$name"}
jobset=${jobset//IMAGE/"$image"}
kubectl create -f - <<<"${jobset//ARGUMENTS/"$arguments"}" # ... which runs `vidjax train` in every pod
first=jobset.sigs.k8s.io/jobset-name=$name,batch.kubernetes.io/job-completion-index=0
echo "gke.sh: its log: kubectl logs -f -l $first"
