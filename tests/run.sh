#!/usr/bin/env bash
# Sets everything up and runs the whole suite: the release build (labels unit, mpi, golden, cli,
# fault) and the same under AddressSanitizer and UndefinedBehaviorSanitizer where it says so.
# Usage: tests/run.sh [CTEST ARGUMENTS]      e.g. tests/run.sh -L unit
set -euo pipefail
cd "$(dirname "$0")/.."

jobs/setup.sh tests
cores=$(nproc)
for preset in release asan; do
    echo "tests: building $preset"
    cmake --preset "$preset" -DTT_TESTS=ON >/dev/null
    cmake --build --preset "$preset" -j "$cores" | grep -E 'warning|error' || true
done
ctest --preset release -j "$cores" "$@"
# Open MPI keeps memory until exit that is not ours: leaks are looked for in unit tests only.
ASAN_OPTIONS=detect_leaks=1 ctest --preset asan -j "$cores" -L 'unit|fault' "$@"
ASAN_OPTIONS=detect_leaks=0 ctest --preset asan -j "$cores" -L 'mpi|cli' "$@"
