#!/usr/bin/env bash
# Sets everything up and runs the whole suite twice: the release build, then the same under
# AddressSanitizer (leaks too) and UndefinedBehaviorSanitizer, then fuzzes the readers for seconds
# each. Labels: unit, mpi, golden, cli, fault, slurm, hosts, browser, pypi, long; fuzz. The sanitizers leave
# out pypi, slurm, hosts and browser, which run nothing of ours that cli does not, and long (on request:
# ctest --preset asan -L long).
# docs/testing.md has more.
# Usage: tests/run.sh [CTEST ARGUMENTS]      e.g. tests/run.sh -L unit
set -euo pipefail
cd "$(dirname "$0")/.."

jobs/setup.sh tests
cores=$(nproc)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for preset in release asan fuzz; do
    echo "tests: building $preset"
    options=(-DTT_TESTS=ON)
    [ $preset != fuzz ] || options=() # without the rest
    if ! { cmake --preset "$preset" "${options[@]}" &&
        cmake --build --preset "$preset" -j "$cores"; } >"$log" 2>&1; then
        cat "$log" >&2
        echo "tests: building $preset failed (above)" >&2
        exit 1
    fi
done
# One more at once than there are cores: tests wait for ranks, disks and downloads.
jobs=$((cores + 1))
# Not in the random order of the presets, but the longest first (tests/CMakeLists.txt).
run() { # run BUILD ARGUMENTS ...
    ctest --test-dir "build/$1" --output-on-failure -j "$jobs" "${@:2}"
}
run release --no-tests=error "$@"
run asan --no-tests=ignore -LE 'pypi|long|slurm|hosts|browser' "$@"
run fuzz --no-tests=ignore "$@"
