#!/bin/bash
# Submits trimtab jobs with the settings of slurm/site.conf; slurm/submit.sh --help.
set -eu
TRIMTAB_SLURM_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export TRIMTAB_SLURM_DIR # to the batch script, which Slurm copies elsewhere

usage() {
    cat <<'END'
usage: slurm/submit.sh KIND [SBATCH OPTIONS] [--dry-run] -- WORDS ...

    train  JOB.cfg [TRIMTAB OPTIONS]     one run; stopped by its time limit it has a checkpoint
    long   JOB.cfg [TRIMTAB OPTIONS]     the same, and queues itself again until it is done
    sweep  SWEEP_DIR [TRIMTAB OPTIONS]   the groups of a planned sweep, as an array
                                         (of them at a time: --array=0-99%8)

Settings come from slurm/site.conf, or the file that TRIMTAB_SITE names. sbatch takes the last of two
options: those given here win. --dry-run prints the sbatch line and submits nothing.

    slurm/submit.sh long --nodes=4 --time=12:00:00 -- jobs/mine.cfg --set train.lr=1e-3
END
}
refuse() {
    echo "submit.sh: $*; see slurm/submit.sh --help" >&2
    exit 64
}

case ${1:-} in
-h | --help) usage; exit 0 ;;
train | long | sweep) kind=$1; shift ;;
*) refuse "got \"${1:-}\", expected train, long or sweep" ;;
esac
given=() dry=
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case $1 in
    -h | --help) usage; exit 0 ;;
    --dry-run) dry=yes ;;
    *) given+=("$1") ;;
    esac
    shift
done
if [ "${1:-}" != -- ] || [ $# -lt 2 ]; then
    refuse "expected -- and then the job file or the sweep's directory"
fi
shift

# shellcheck source=slurm/site.conf
source "${TRIMTAB_SITE:-$TRIMTAB_SLURM_DIR/site.conf}"
options=("--time=$TIME_LIMIT" "--nodes=$NODES" "--signal=B:USR1@$WARN_SECONDS")
[ -z "$PARTITION" ] || options+=("--partition=$PARTITION")
[ -z "$ACCOUNT" ] || options+=("--account=$ACCOUNT")
[ -z "$QOS" ] || options+=("--qos=$QOS")
[ -z "$CONSTRAINT" ] || options+=("--constraint=$CONSTRAINT")
[ -z "$MEMORY" ] || options+=("--mem=$MEMORY")
[ "$EXCLUSIVE" != yes ] || options+=(--exclusive)
[ -z "$RANKS_PER_NODE" ] || options+=("--ntasks-per-node=$RANKS_PER_NODE")
[ -z "$CORES_PER_RANK" ] || options+=("--cpus-per-task=$CORES_PER_RANK")
if [ "$kind" = sweep ]; then
    n=$(sed -n 's/.*"n_groups": *\([0-9]\{1,6\}\).*/\1/p' "$1/sweep.json" 2>/dev/null | head -n 1)
    [ "${n:-0}" -gt 0 ] || refuse "$1: not a sweep's directory (trimtab sweep plan makes one)"
    options+=("--array=0-$((n - 1))")
fi
line=(sbatch "${options[@]}" ${SBATCH_OPTIONS[@]+"${SBATCH_OPTIONS[@]}"} ${given[@]+"${given[@]}"}
    "$TRIMTAB_SLURM_DIR/$kind.sbatch" "$@")
if [ -n "$dry" ]; then
    printf '%q ' "${line[@]}"
    echo
    exit 0
fi
exec "${line[@]}"
