#!/usr/bin/env bash
# The main job on a fresh Debian or Ubuntu machine: installs what is missing, builds trimtab, makes
# a ListOps data set, and steers the small pretrained Llama in jobs/quickstart/model under mpirun on
# two ranks. Ends with a table: the frozen model against post-block steering on held-out data.
# Usage: jobs/quickstart.sh [--set GROUP.KEY=VALUE ...]      options go to trimtab train
#        RANKS=4 jobs/quickstart.sh                          other rank counts
set -euo pipefail
cd "$(dirname "$0")/.."

jobs/setup.sh
echo "quickstart: building"
cmake --preset release >/dev/null
cmake --build --preset release --target trimtab_cli -j "$(nproc)" >/dev/null

trimtab=build/release/trimtab
data=build/quickstart
mkdir -p "$data"
"$trimtab" data listops --train "$data/train.jsonl" --n-train 6000 \
    --eval "$data/eval.jsonl" --n-eval 500 --seed 1

if [ "$(id -u)" = 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
rm -rf runs/quickstart
mpirun -n "${RANKS:-2}" --oversubscribe "$trimtab" train jobs/quickstart.cfg "$@"
