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
    if [ -f "$here/$1.py" ]; then
        printf '%s\n' python3 "$here/$1.py" $full --seed "$seed" "$TRIMTAB"
    elif [ -x "$here/$1.sh" ]; then
        printf '%s\n' "$here/$1.sh" $full
    elif [ -x "$SOURCE/tests/$1/run.sh" ]; then
        printf '%s\n' "$SOURCE/tests/$1/run.sh" $full
    else
        echo "no $here/$1.py or .sh, no $SOURCE/tests/$1/run.sh" >&2
        exit 64
    fi
}

# Programs, not modules that they share.
names_of_all() {
    local path
    for path in "$here"/*.py; do
        ! grep -q '^if __name__ == "__main__"' "$path" || basename "$path" .py
    done
    for path in "$here"/*.sh; do
        [ ! -x "$path" ] || [ "$path" -ef "$0" ] || basename "$path" .sh
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
