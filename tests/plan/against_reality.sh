#!/usr/bin/env bash
# Predicted steps beside measured ones: layouts of a made-up model on this machine's cores, planned and
# trained in turns. Means something on a machine that does nothing else. Not run in CI.
# Usage: tests/plan/against_reality.sh [TRIMTAB]       takes some minutes; needs two cores
#        STEPS=30 SECONDS_TO_PLAN=10 ...               more steps a layout, longer measurements
# Exit status 1 when a prediction is more than 10 % off.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
trimtab=$(realpath "${1:-$root/build/release/trimtab}")
steps=${STEPS:-12} seconds=${SECONDS_TO_PLAN:-6}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
if [ "$(id -u)" = 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
python3 "$root/tests/plan/random_llama.py" model "$root/jobs/quickstart/model" 8 512 8192
"$trimtab" data listops --train train.jsonl --n-train 2000 --eval eval.jsonl --n-eval 10 --seed 3 \
    >/dev/null
cat >job.cfg <<CFG
@include "$root/configs/methods/post-block-r8.cfg"
model: { path = "model"; };
task: { file = "$root/configs/tasks/listops.cfg"; train = "train.jsonl"; };
train: { steps = $steps; batch_size = 48; lr = 1e-4; };
eval: { before = false; after = false; };
log: { every = 1; };
CFG

mpi() { # mpi RANKS COMMAND ...
    mpirun --oversubscribe --bind-to none -n "$1" "$trimtab" "${@:2}"
}
# Where a layout's numbers are: the median step without the first two, and the prediction.
cat >compare.py <<'PY'
import json, statistics, sys
name, run, plan = sys.argv[1:]
ends = [r["elapsed_s"] for r in map(json.loads, open(run)) if r["kind"] == "train"]
steps = [b - a for a, b in zip(ends, ends[1:])][1:]
layout, = json.load(open(plan))["layouts"]
predicted, measured = layout["step_s"], statistics.median(steps)
spread = (max(steps) - min(steps)) / measured
micro = f"{layout['micro_batches']} x {layout['tokens_micro']:.0f}"
print(f"{name:<42} {micro:>10} {predicted:>10.4f} {measured:>10.4f} {predicted / measured:>6.2f} "
      f"{100 * spread:>8.0f}", flush=True)
sys.exit(abs(predicted / measured - 1) > 0.1)
PY

printf '%-42s %10s %10s %10s %6s %8s\n' layout micro predicted measured ratio "spread %"
n=0 off=0
compare() { # compare NAME STAGES REPLICAS THREADS MICRO_BATCH_TOKENS [SETS ...]
    local name=$1 ranks=$(($2 * $3)) sets=(--set "parallel.stages=$2" --set "parallel.replicas=$3"
        --set "parallel.threads=$4" --set "parallel.micro_batch_tokens=$5"
        --set parallel.micro_batches=1 "${@:6}")
    n=$((n + 1))
    mpi "$ranks" plan job.cfg --json --seconds "$seconds" "${sets[@]}" >plan.json
    mpi "$ranks" train job.cfg --quiet --set "run.dir=run$n" "${sets[@]}"
    python3 compare.py "$name" "run$n/metrics.jsonl" plan.json || off=$((off + 1))
    rm -rf "run$n"
}
compare "1 x 1, one thread" 1 1 1 512
compare "1 x 1, two threads" 1 1 2 512
compare "1 x 1, two threads, small micro-batches" 1 1 2 128
compare "2 x 1" 2 1 1 256
compare "2 x 1, large micro-batches" 2 1 1 768
compare "2 x 1, stages that differ" 2 1 1 256 --set 'method.layers="5-7"'
compare "1 x 2" 1 2 1 256
compare "1 x 2, large micro-batches" 1 2 1 1280
echo "$off of $n predictions are more than 10 % off"
[ "$off" = 0 ]
