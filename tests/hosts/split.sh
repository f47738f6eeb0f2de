#!/usr/bin/env bash
# Two lives of a run at once: the old one is frozen, or hangs at a cut link, while a new one takes the
# run over and ends it. Let go, the old one finds out, leaves with 77, and has changed nothing.
source "$(dirname "${BASH_SOURCE[0]}")/case.sh"
rig_enter "$@"
host_up 0 1 2 3
whole_run $(layout 2x2)

# All there is of a run but the metrics, where rows tell their life: names, sizes, contents.
all_of() {
    (cd "$1" && find . -path ./metrics.jsonl -prune -o -type f -print0 | sort -z |
        xargs -0 sha256sum && find . -type d | sort)
}
take_over() { # take_over HOSTS NAME: by a new life, which ends the run
    resume_on "$1" "$2"
    all_of "$2" >"$2.after_new"
}
old_is_fenced() { # old_is_fenced NAME
    end_run 100 "$1"
    [ $status = 77 ] || fail "$1: the old life ended with $status, expected 77"
    grep -q "a newer life of this run has taken over: found generation 2" "$1.err" ||
        fail "$1: the old life does not tell why it ended"
    all_of "$1" >"$1.after_old"
    cmp "$1.after_new" "$1.after_old" || fail "$1: the old life changed the run: $(diff "$1.after_new" "$1.after_old")"
    same_adapter whole "$1" $STEPS || fail "$1 ends elsewhere"
    all_whole "$1"
}
everywhere() { # everywhere SIGNAL
    local host
    for host in h0 h1 h2 h3; do host_signal "$1" $host trimtab; done
}

begin_run frozen
everywhere STOP
take_over "h1:1 h2:2 h3:1" frozen
tell "frozen: a new life has ended the run"
everywhere CONT
old_is_fenced frozen
tell "thawed: the old life left with 77 and changed nothing"
row "all ranks of a run frozen (SIGSTOP), the run resumed and ended by a new life, the old one thawed" 1 \
    "the old life ends with 77, naming the new one; no file but its own rows in metrics.jsonl changed"

begin_run cut
cable_pull h2
take_over "h0:2 h1:1 h3:1" cut
tell "h2 cut off: a new life has ended the run"
cable_plug h2
old_is_fenced cut
tell "link back: the old life left with 77 and changed nothing"
row "link of one of 4 hosts cut, the run resumed and ended on the others while the old ranks hang, link back" 1 \
    "as above"

[ -n "$FULL" ] || exit 0
# Frozen anywhere, also while it writes checkpoints: one after every step.
RANDOM=${SEED:-1}
sets="$(settings 60 1) $(layout 2x2)"
STEPS=60
rm -rf whole
host_mpirun h0:4 -n 4 "$TRIMTAB" train job.cfg $sets --set run.dir=whole 2>whole.err || fail "whole"
amid=0
for i in $(seq 20); do
    host_mpirun "$four" -n 4 "$TRIMTAB" train job.cfg $sets --set run.dir=r$i >r$i.log 2>r$i.err &
    run=$!
    wait_until 100 has_checkpoint r$i $((1 + RANDOM % 40)) || fail "no checkpoint"
    sleep 0.0$((RANDOM % 90 + 10))
    everywhere STOP
    has_ended $run && fail "it ended before it was frozen"
    ! ls -d r$i/checkpoints/*.tmp >/dev/null 2>&1 || amid=$((amid + 1))
    take_over "h1:1 h2:2 h3:1" r$i
    everywhere CONT
    old_is_fenced r$i
    rm -rf r$i
done
tell "frozen 20 times, $amid times with a checkpoint half written: fenced every time"
row "the same, frozen at a random moment of a run that writes a checkpoint a step" "20, $amid of them amid a checkpoint" \
    "as above"
