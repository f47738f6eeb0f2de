#!/usr/bin/env bash
# Runs one case of tests/cli: run_case.sh CASE_DIR TRIMTAB MODEL_DIR
#   command          bash, run in an empty directory; $TRIMTAB, $CASE, $SOURCE, $MODEL, mpi N ...
#   expect.status    exit status
#   expect.stdout, expect.stderr   every line must occur in the output; a line "! text" must not
set -u
case_dir=$(cd "$1" && pwd)
export CASE=$case_dir TRIMTAB=$2 SOURCE=$(cd "$(dirname "$0")/../.." && pwd) MODEL=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

mpi() {
    local n=$1
    shift
    "$SOURCE/tests/mpirun.sh" "$n" "$TRIMTAB" "$@"
}
export -f mpi
timeout "${CASE_SECONDS:-280}" bash -c "set -u; source '$case_dir/command'" >stdout 2>stderr
status=$?

expected=$(cat "$case_dir/expect.status")
if [ "$status" = 77 ] && [ "$expected" != 77 ]; then # skipped, and says why
    cat stdout
    exit 77
fi
verdict=0
fail() {
    echo "FAIL: $*"
    verdict=1
}
[ "$status" = "$expected" ] || fail "exit status $status, expected $expected"
for stream in stdout stderr; do
    [ -f "$case_dir/expect.$stream" ] || continue
    while IFS= read -r line; do
        [ -n "$line" ] || continue
        if [ "${line#! }" != "$line" ]; then
            ! grep -qF -- "${line#! }" "$stream" || fail "$stream has: ${line#! }"
        else
            grep -qF -- "$line" "$stream" || fail "$stream lacks: $line"
        fi
    done <"$case_dir/expect.$stream"
done
if [ $verdict != 0 ]; then
    echo "--- stdout"; head -c 6000 stdout
    echo "--- stderr"; head -c 6000 stderr
fi
exit $verdict
