#!/usr/bin/env bash
# Runs the cases of jobs.sh on a Slurm cluster of this machine's own, and prints them as rows of
# docs/reliability.md's table.
# Usage: tests/slurm/run.sh [--full] [CASE ...]     --full: three times. 1 when one fails, 77 when
# there can be no such cluster here.
here=$(cd "$(dirname "$0")" && pwd)
tried=1
[ "${1:-}" != --full ] || { tried=3; shift; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for _ in $(seq $tried); do
    "$here/jobs.sh" "$@" >"$log"
    status=$?
    cat "$log" >&2
    [ $status = 77 ] && exit 77
    [ $status = 0 ] || exit 1
done
row() { # row CASE FAULT WHAT_HAPPENED
    ! grep -q " $1: good" "$log" || echo "| Slurm: $2 | $tried | $3 | \`tests/slurm/run.sh $1\` |"
}
row limit "the time limit comes near (\`--signal\`)" "checkpoint, requeued, resumed; same bits as undisturbed"
row preempted "an urgent job takes the nodes (REQUEUE)" "checkpoint, queued again by Slurm, resumed; same bits"
row cancel "scancel, \`srun\`" "checkpoint, CANCELLED, no rank left; submitted again it goes on to the same bits"
row cancel_mpirun "scancel, \`mpirun\`" "as above"
row fewer "scancel --signal=USR1, then 1 node in place of 2" "requeued, resumed as 1 stage; values within 1e-5 of the largest"
row more "USR1 to the batch script, \`mpirun\`, then 4 nodes in place of 2" "resumed as 2 stages x 2 replicas; values within 1e-5"
row told_early "USR1 while ranks only start" "75, requeued, resumed; same bits"
row stop_file "stop file" "75, not queued again while the file is there; then the same bits"
row dead_rank "kill -9 of a rank" "the step ends, requeued, resumed from the last checkpoint; same bits"
row late_start "a step that does not start, twice" "tried again after 2 and 4 s, then runs"
row hopeless "a rank that dies at once in every life" "given up after REQUEUE_LIMIT lives without a checkpoint"
row bad_job "a bad job; one that diverges (case diverged)" "78; 76: not queued again"
row sweep "an array of a sweep's groups, submitted twice" "all done; the second time nothing changes"
