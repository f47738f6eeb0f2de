# What several cases start from: a small data set and a job on the shipped model.
data() {
    "$TRIMTAB" data listops --train train.jsonl --n-train "${1:-120}" --eval eval.jsonl \
        --n-eval "${2:-20}" --max-depth 2 --max-args 3 --max-length 16 --seed 7 >/dev/null
}
job() { # job FILE [MORE LINES]
    cat >"$1" <<EOF
run: { dir = "run"; };
model: { path = "$MODEL"; };
task: { file = "$SOURCE/configs/tasks/listops.cfg"; train = "train.jsonl"; eval = "eval.jsonl"; };
method: { form = "nonlinear"; rank = 4; };
train: { steps = 12; batch_size = 8; lr = 0.005; };
parallel: { threads = 1; };
log: { every = 4; };
EOF
}
