#!/usr/bin/env bash
# Runs the tests on several hosts, and prints what they found as rows of docs/reliability.md's table.
# Usage: tests/hosts/run.sh [--full] [NAME ...]     names: train cut dies slow split node_fails; all
# by default. --full: the long forms. 1 when one fails, 77 when hosts cannot be made here.
here=$(cd "$(dirname "$0")" && pwd)
all="train cut dies slow split node_fails"
FULL=""
[ "${1:-}" != --full ] || { FULL=1; shift; }
ROWS=$(mktemp)
export FULL ROWS
trap 'rm -f "$ROWS"' EXIT
verdict=0
for name in ${*:-$all}; do
    echo "hosts.$name" >&2
    "$here/$name.sh" >&2
    status=$?
    [ $status = 77 ] && exit 77
    [ $status = 0 ] || verdict=1
done
cat "$ROWS"
exit $verdict
