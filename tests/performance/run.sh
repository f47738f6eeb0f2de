#!/bin/sh
# Runs every bench and writes its numbers into docs/performance.jsonl and the tables of
# docs/performance.md: tests/performance/run.sh [--seconds S] [--only BENCH] [--peers FILE.json]
# (that FILE is what tests/peers/run.sh --json FILE wrote). On a quiet machine; 10 minutes.
here=$(cd "$(dirname "$0")" && pwd)
exec python3 "$here/run.py" "$@"
