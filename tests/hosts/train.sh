#!/usr/bin/env bash
# Four hosts that train as one does: the same bits in the same layout, whoever writes checkpoints,
# and a run that goes on on fewer hosts.
source "$(dirname "${BASH_SOURCE[0]}")/case.sh"
rig_enter "$@"
host_up 0 1 2 3
four="h0:1 h1:1 h2:1 h3:1"
data
job job.cfg

host_mpirun "$four" "$TRIMTAB" doctor >doctor.log 2>&1 || fail "doctor"
grep -q "4 on 4 nodes, 1 on this one (h0)" doctor.log || fail "trimtab does not see four nodes"
host_mpirun "h0:2 h1:2" "$TRIMTAB" doctor >doctor.log 2>&1 || fail "doctor"
grep -q "4 on 2 nodes, 2 on this one (h0)" doctor.log || fail "trimtab does not see two nodes"
tell "nodes are seen"

job=job.cfg
train() { # train HOSTS OPTIONS ...: four ranks
    local hosts=$1
    shift
    host_mpirun "$hosts" -n 4 "$TRIMTAB" train $job "$@" 2>train.err || fail "train on $hosts: $*"
}
same_run() { # same_run A B STEP: adapter and optimizer
    same_adapter "$1" "$2" "$3" || fail "$1 and $2 differ"
    cmp "$(dirname "$(adapter "$1" "$3")")/optimizer.safetensors" \
        "$(dirname "$(adapter "$2" "$3")")/optimizer.safetensors" || fail "moments of $1 and $2 differ"
}
for l in ${FULL:+1x4} 4x1 2x2; do
    train h0:4 $(settings 20 10) $(layout $l) --set run.dir=one.$l
    train "$four" $(settings 20 10) $(layout $l) --set run.dir=four.$l
    for step in 10 20; do same_run one.$l four.$l $step; done
    tell "$l: the same bits on 1 and 4 hosts"
done
train "h0:2 h1:2" $(settings 20 10) $(layout 2x2) --set run.dir=two
same_run one.2x2 two 20
tell "2x2: the same bits on 2 hosts"

# Hosts were started at different times, by their clocks 1,000 s and more apart: a trace knows.
train "$four" $(settings 20 10) $(layout 4x1) --set log.trace=true --set run.dir=traced
python3 - traced/trace.json <<'END' || fail "a trace of four hosts is not aligned"
import json, sys
events = json.load(open(sys.argv[1]))["traceEvents"]
steps = {}
for e in events:
    if e["ph"] == "X" and e["name"] == "step":
        steps.setdefault(e["args"]["step"], {})[e["tid"]] = e["ts"] * 1e-6
assert len(steps) == 20, steps.keys()
for step, began in steps.items():
    assert len(began) == 4 and max(began.values()) - min(began.values()) < 100, (step, began)
END
tell "a trace of four hosts is aligned"

# Every tensor has one owner among the replicas, on a host of its own.
sed "/^method/d; s/lr = 0.005/lr = 1e-4/" job.cfg >full.cfg
echo "@include \"$SOURCE/configs/methods/full.cfg\"" >>full.cfg
job=full.cfg
train h0:4 $(settings 6 3) $(layout 2x2) --set run.dir=one.full
train "$four" $(settings 6 3) $(layout 2x2) --set run.dir=four.full
job=job.cfg
same_run one.full four.full 6
tell "full tuning, 2x2: the same bits"

# Stopped on four hosts, ended on two and on one.
sets="$(settings 200 100000) $(layout 4x1) --set parallel.micro_batches=4"
train h0:4 $sets --set run.dir=whole
host_mpirun "$four" -n 4 "$TRIMTAB" train job.cfg $sets --set run.dir=stopped 2>stopped.err &
run=$!
wait_until 100 is_past stopped 3 || fail "no steps"
host_signal USR1 h0 mpirun # which hands it on to the ranks of all hosts
wait $run
status=$?
[ $status = 75 ] || fail "exit status $status of a stopped run, expected 75"
cp -r stopped stopped2
train "h1:2 h2:2" $sets --set run.dir=stopped --resume
same_run whole stopped 200
tell "stopped on 4 hosts, went on on 2: the same bits"
host_mpirun "h2:1 h3:1" -n 2 "$TRIMTAB" train job.cfg $(settings 200 100000) $(layout 2x1) --set parallel.micro_batches=4 \
    --set run.dir=stopped2 --resume 2>train.err || fail "resume with two ranks"
same_run whole stopped2 200
tell "stopped with 4 ranks, went on with 2: the same bits"
row "training on 4 hosts (${FULL:+1x4, }4x1, 2x2; 2 hosts x 2 ranks; every weight trained)" "$([ -z "$FULL" ] && echo 10 || echo 12) runs" \
    "adapter and moments are those of one host, byte for byte; stopped on 4 hosts, the run went on on 2 hosts to the same bytes"
