#!/usr/bin/env bash
# One host of four has a bad cable: it delays, is slow, loses packets.
source "$(dirname "${BASH_SOURCE[0]}")/case.sh"
rig_enter "$@"
host_up 0 1 2 3
STEPS=100
seconds_a_step() {
    sed -n 's/^{"kind":"train".*"elapsed_s":\([0-9.]*\),.*/\1/p' "$1/metrics.jsonl" |
        awk -v n=$STEPS '{ last = $1 } END { printf "%.4f", last / n }'
}

told=""
bad() { # bad DELAY_MS KILOBITS LOSS_PER_MILLE: of the cable of h2
    local name=bad.$1.$2.$3 lost
    cable_spoil h2 "$1" "$2" "$3" 7
    host_mpirun "$four" $soon_alive -n 4 "$TRIMTAB" train job.cfg $sets --set run.dir=$name \
        2>$name.err || fail "train with $1 ms, $2 kbit/s, $3 of 1000 lost"
    cable_mend h2
    same_adapter whole $name $STEPS || fail "the result differs with a bad cable"
    lost=$(sed 's/.*on, \(.*\) lost/\1/' slow_link.h2.log)
    [ "$3" = 0 ] || [ "$lost" -gt 0 ] || fail "nothing was lost: $(cat slow_link.h2.log)"
    tell "$1 ms, $2 kbit/s, $3 of 1000 lost ($lost frames): $(seconds_a_step $name) s a step, the same bits"
    told="$told; $1 ms, $(($2 / 1000)) Mbit/s, $3 ‰ lost: $(seconds_a_step $name) s a step"
}

layouts="2x2"
[ -z "$FULL" ] || layouts="2x2 4x1 1x4"
n=0
for l in $layouts; do
    rm -rf whole bad.*
    whole_run $(layout $l)
    host_mpirun "$four" -n 4 "$TRIMTAB" train job.cfg $sets --set run.dir=good 2>good.err ||
        fail "train with good cables"
    tell "$l, good cables: $(seconds_a_step good) s a step"
    told="$told; $l, good cables: $(seconds_a_step good) s a step"
    rm -rf good
    bad 1 100000 10
    n=$((n + 1))
    [ -z "$FULL" ] || { bad 5 0 0; bad 0 10000 0; bad 0 0 50; bad 20 10000 20; n=$((n + 4)); }
done
row "cable of one of 4 hosts slow, late or lossy" $n "same bits; ${told#; }"
