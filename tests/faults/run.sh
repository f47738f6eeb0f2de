#!/usr/bin/env bash
# Breaks runs on purpose, and prints what happened as rows of docs/reliability.md's table.
# Usage: tests/faults/run.sh [--full] [--seed N] [NAME ...]
# NAMEs are the scripts beside this one without .py or .sh, and hosts, slurm, sweep, ... for
# tests/NAME/run.sh; all by default. Without --full: what the suite runs of it (ctest -L fault), some
# minutes; with it: everything, hours on a small machine. TRIMTAB: the program. 1 when one fails.
here=$(cd "$(dirname "$0")" && pwd)
SOURCE=$(cd "$here/../.." && pwd)
export TRIMTAB=$(realpath "${TRIMTAB:-$SOURCE/build/release/trimtab}")
full="" seed=1
while [ $# -gt 0 ]; do
    case $1 in
    --full) full=--full ;;
    --seed) seed=$2 && shift ;;
    -*) sed -n 2,6p "$0" && exit 64 ;;
    *) break ;;
    esac
    shift
done
[ -x "$TRIMTAB" ] || { echo "no program $TRIMTAB: build it first, or say TRIMTAB=" >&2; exit 66; }

# The program that a name means, with its arguments, one a line.
command_of() {
    local part
    for part in "$here/$1.py" "$here/$1.sh" "$SOURCE/tests/$1/run.sh"; do
        [ -x "$part" ] || continue
        printf '%s\n' "$part" $full
        [ "${part%.py}" = "$part" ] || printf '%s\n' --seed "$seed" "$TRIMTAB"
        return
    done
    echo "no $here/$1.py or .sh, no $SOURCE/tests/$1/run.sh" >&2
    exit 64
}

# Programs, not modules that they share: those that can be executed.
names_of_all() {
    local path
    for path in "$here"/*.py "$here"/*.sh; do
        [ ! -x "$path" ] || [ "$path" -ef "$0" ] || basename "${path%.*}"
    done
    for path in "$SOURCE"/tests/{hosts,slurm,sweep}/run.sh; do
        [ ! -x "$path" ] || basename "$(dirname "$path")"
    done
}

verdict=0
for name in ${*:-$(names_of_all)}; do
    command=$(command_of "$name") || exit 64
    mapfile -t command <<<"$command"
    began=$SECONDS
    "${command[@]}"
    status=$?
    case $status in
    0) said="held" ;;
    77) said="skipped" ;;
    *) said="FAILED with $status" verdict=1 ;;
    esac
    echo "faults.$name $said, $((SECONDS - began)) s" >&2
done
exit $verdict
