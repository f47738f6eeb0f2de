#!/usr/bin/env bash
# Fuzzes one reader: run.sh TARGET SECONDS [BUILD]    (BUILD: build/fuzz, made by cmake --preset fuzz)
# First every input of corpus/TARGET, then new ones for so long. What breaks a promise is kept in
# corpus/TARGET as crash-..., timeout-... or oom-...: the next run fails on it at once, until the
# reader is mended; then give it a name that tells what it is. New inputs of interest are collected
# in BUILD/fuzz/TARGET; run.sh TARGET merge takes over those that reach new code.
# FUZZ_SEED fixes the random choices.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=$1 seconds=$2 build=${3:-$here/../../build/fuzz}
program=$build/tests/fuzz/fuzz_$target corpus=$here/corpus/$target found=$build/fuzz/$target
mkdir -p "$found"
if [ ! -x "$program" ]; then
    echo "fuzz: no $program: cmake --preset fuzz && cmake --build --preset fuzz" >&2
    exit 66
fi
# A small input that takes seconds or a gigabyte is as bad as one that crashes.
setting() { sed -n "s/^tt_fuzz($target .*$1 \([a-z_0-9]*\).*/\1/p" "$here/CMakeLists.txt"; }
options=(-timeout=5 -rss_limit_mb=1024 "-max_len=$(setting MAX_LEN)" -print_final_stats=1)
if [ -n "$(setting DICT)" ]; then options+=("-dict=$here/$(setting DICT).dict"); fi
if [ "$seconds" = merge ]; then
    exec "$program" "${options[@]}" -set_cover_merge=1 -use_counters=0 "$corpus" "$found"
fi
# libconfig keeps the text of a string that a syntax error interrupts.
echo leak:libconfig >"$found.leaks"
export LSAN_OPTIONS=suppressions=$found.leaks:print_suppressions=0
export ASAN_OPTIONS=allocator_may_return_null=1:detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1
"$program" "${options[@]}" -runs=0 "-artifact_prefix=$found/" "$corpus" || {
    echo "fuzz: an input of $corpus fails; which one is named above" >&2
    exit 1
}
exec "$program" "${options[@]}" "-seed=${FUZZ_SEED:-0}" "-max_total_time=$seconds" \
    "-artifact_prefix=$corpus/" "$found" "$corpus"
