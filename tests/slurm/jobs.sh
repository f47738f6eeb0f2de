#!/usr/bin/env bash
# Jobs on a whole cluster of this machine's own (rig.sh): what slurm/ promises, seen to happen.
#     tests/slurm/jobs.sh [CASE ...]
# All cases at once, as they mostly wait; each a function case_NAME in a directory of its own. A case
# that has to catch its run at work freezes the ranks (SIGSTOP) while it does: nothing depends on how
# fast anything is. KEEP=DIR keeps what failed there.
# shellcheck disable=SC2317,SC2086,SC2016,SC2012,SC2119 # cases are called by name; sets of options are words
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
SOURCE=$(cd "$here/../.." && pwd)
MODEL=$SOURCE/jobs/quickstart/model
TRIMTAB=$(realpath "${TRIMTAB:-$SOURCE/build/release/trimtab}")
export SOURCE MODEL TRIMTAB
if [ -z "${RIG_DIR:-}" ]; then exec "$here/rig.sh" --nodes 10 --keep "${KEEP:-}" "$here/jobs.sh" "$@"; fi

STEPS=200
ROOT=$PWD
# shellcheck source=tests/cli/common.sh
source "$SOURCE/tests/cli/common.sh"

# --- Parts of cases -------------------------------------------------------------------------------

fail() {
    echo "FAIL: $*"
    exit 1
}

# Waiting starts no process: there are many who wait, and few cores.
nap() { read -r -t "$1" <>"$ROOT/never" || true; }

# until_true SECONDS COMMAND ...: is it true by then?
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        if [ "$1" = is_past ]; then nap 0.1; else nap 0.7; fi
    done
}

# site [LINES ...]: site.conf of this case.
site() {
    {
        cat "$SOURCE/slurm/site.conf"
        printf '%s\n' "TRIMTAB='$ROOT/noted'" MEMORY=100M EXCLUSIVE=no TIME_LIMIT=10 RANKS_PER_NODE=1 \
            CORES_PER_RANK=1 BIND=none WARN_SECONDS=10 REQUEUE_LIMIT=2 "MPIRUN_OPTIONS=(--oversubscribe)" "$@"
    } >site.conf
    export TRIMTAB_SITE=$PWD/site.conf
}

# submit KIND [SBATCH OPTIONS] -- WORDS ...: sets JOB. Logs go to job-JOB.log.
submit() {
    local kind=$1
    shift
    JOB=$("$SOURCE/slurm/submit.sh" "$kind" --parsable --output=job-%j.log "$@") || fail "not submitted"
}
settings="--quiet --set train.steps=$STEPS --set log.every=1 --set checkpoint.every=100000
    --set eval.before=false --set eval.after=false"

# A line of the job's log; steps in a run's metrics; what Slurm knows.
says() { grep -q -- "$1" "job-$JOB.log" 2>/dev/null; }
is_past() {
    local rows
    [ -e "$1/metrics.jsonl" ] && mapfile -t rows <"$1/metrics.jsonl" && [ ${#rows[@]} -gt "$2" ]
}
fact() { scontrol show job "$JOB" | sed -n "s/.*\\b$1=\\([^ ]*\\).*/\\1/p" | head -n 1; }
is_in() { [[ $(fact JobState) =~ ^($1)$ ]]; }

# Processes of the program in the job's lives: it is started through a script that notes them.
ranks() {
    local pid file
    for file in "pids.$JOB".*; do
        [ -e "$file" ] || continue
        while read -r pid; do ! kill -0 "$pid" 2>/dev/null || echo "$pid"; done <"$file"
    done
}
each_rank() { # each_rank SIGNAL
    local pid file
    for file in "pids.$JOB".*; do
        while read -r pid; do kill "-$1" "$pid" 2>/dev/null; done <"$file"
    done
}
freeze() { # freeze RUN [AFTER STEPS]
    until_true 120 is_past "$1" "${2:-3}" || fail "$1 does not train"
    each_rank STOP
    [ -z "$(adapter "$1")" ] || fail "$1 was over before it could be frozen: more steps are needed"
}
thaw() { each_rank CONT; }

# ends STATE [EXIT CODE]: the job's last word.
ends() {
    until_true 240 is_in 'COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL|PREEMPTED' ||
        fail "job $JOB is still $(fact JobState)"
    is_in "$1" || fail "job $JOB ended $(fact JobState), expected $1"
    [ -z "${2:-}" ] || [ "$(fact ExitCode)" = "$2:0" ] || fail "job $JOB: exit code $(fact ExitCode), expected $2"
}
lives() { [ "$(fact Restarts)" = "$1" ] || fail "job $JOB was queued again $(fact Restarts) times, expected $1"; }
adapter() { ls -d "$1"/checkpoints/step-"$(printf %010d "${2:-$STEPS}")".g*/adapter.safetensors 2>/dev/null | tail -n 1; }

# The run ended as the uninterrupted one: equal RUN; or, where sums were added up in another order,
# about: every value within 1e-5 of the largest of its tensor.
wait_for_whole() { until_true 240 test -e "$ROOT/whole/is_done" || fail "no run to compare with"; }
equal() {
    wait_for_whole
    cmp "$(adapter "$ROOT/whole/run")" "$(adapter "$1")" || fail "$1: another adapter than the uninterrupted run's"
}
about() {
    wait_for_whole
    python3 "$here/compare_adapters.py" "$(adapter "$ROOT/whole/run")" "$(adapter "$1")" 1e-5 ||
        fail "$1: another adapter than the uninterrupted run's"
}

# --- Cases ----------------------------------------------------------------------------------------

case_whole() { # one run on two nodes; what others are compared with
    site
    submit train --nodes=2 -- job.cfg $settings
    ends COMPLETED 0
    lives 0
    says '2 ranks by srun' || fail "not two ranks"
    [ -n "$(adapter run)" ] || fail "no adapter"
    touch is_done
}

case_limit() { # the time limit comes near: told, checkpoint, queued again, resumed, done
    site
    submit long --nodes=2 --time=1 --signal=B:USR1@50 -- job.cfg $settings
    freeze run
    until_true 120 says 'told to stop' || fail "no early warning"
    thaw
    until_true 120 says 'queued again' || fail "not queued again"
    [ -z "$(adapter run)" ] || fail "it was done before it was stopped"
    ends COMPLETED 0
    lives 1
    equal run
}

case_fewer() { # told by scancel --signal (the step alone), goes on on one node instead of two
    site
    submit long --nodes=2 -- job.cfg $settings --set parallel.stages=2
    freeze run
    scancel --signal=USR1 "$JOB"
    thaw
    until_true 120 is_in PENDING || fail "not queued again"
    scontrol update JobId="$JOB" NumNodes=1-1 NumTasks=1 NumCPUs=1 || fail "cannot change the number of nodes"
    ends COMPLETED 0
    lives 1
    says 'do not go into 1 ranks: 1 stages x 1 replicas' || fail "the other layout is not told"
    about run
}

case_more() { # likewise by mpirun, told through the batch script, on 4 nodes instead of two
    site LAUNCHER=mpirun
    submit long --nodes=2 -- job.cfg $settings --set parallel.stages=2
    freeze run
    scancel --batch --signal=USR1 "$JOB"
    until_true 60 says 'told to stop' || fail "the script was not told"
    thaw
    until_true 120 is_in PENDING || fail "not queued again"
    scontrol update JobId="$JOB" NumNodes=4-4 || fail "cannot change the number of nodes"
    ends COMPLETED 0
    lives 1
    says '4 ranks by mpirun' || fail "not four ranks"
    about run
}

cancelled() { # cancelled [SITE LINES]: ends with a checkpoint, and goes on when submitted again
    site "$@"
    submit long --nodes=2 -- job.cfg $settings
    freeze run
    scancel "$JOB" # which thaws
    ends CANCELLED
    until_true 60 has_no_ranks || fail "ranks are left over"
    ls run/checkpoints/step-* >/dev/null 2>&1 || fail "no checkpoint"
    submit long --nodes=2 -- job.cfg $settings
    ends COMPLETED 0
    grep -q '"life":2' run/metrics.jsonl || fail "not a second life"
    equal run
}
case_cancel() { cancelled; }
case_cancel_mpirun() { cancelled LAUNCHER=mpirun; }

case_preempted() { # gives way to an urgent job, and goes on after it
    site
    submit train --nodes=2 --nodelist=n9,n10 --exclusive -- job.cfg $settings
    freeze run
    sbatch --partition=urgent --nodes=2 --nodelist=n9,n10 --exclusive --mem=100M --output=urgent.log \
        --wrap="echo urgent" >urgent.job || fail "not submitted"
    until_true 120 says 'preempted' || fail "not preempted"
    ends COMPLETED 0
    lives 1
    says 'waiting to be queued again by Slurm' || fail "it left too early"
    grep -q urgent urgent.log || fail "the urgent job did not run"
    equal run
}

case_bad_job() { # 78: not again, and nothing is started
    site
    submit long -- job.cfg --set train.lr=-1
    ends FAILED 78
    lives 0
    says 'not tried again' || fail "the script does not tell"
}

case_diverged() { # 76: not again
    site
    submit long -- job.cfg $settings --set train.lr=1000000 --set train.clip=0 --set train.schedule=constant
    ends FAILED 76
    lives 0
    says 'would happen again' || fail "the script does not tell"
}

case_stop_file() { # a person stops the run: not queued again, though it could be; and goes on later
    site
    submit long --nodes=2 -- job.cfg $settings
    freeze run
    touch run/stop
    thaw
    ends FAILED 75
    lives 0
    says 'stop is there: not queued again' || fail "the script does not tell"
    [ -z "$(adapter run)" ] || fail "it went on to the end"
    submit long --nodes=2 -- job.cfg $settings
    ends FAILED 75 # the file is still there
    says "stopped on request before this life's first step" || fail "it began"
    echo requeue >run/stop
    submit long --nodes=2 -- job.cfg $settings
    ends COMPLETED 0
    lives 1 # the file asked for that, once
    equal run
}

case_dead_rank() { # kill -9: queued again, resumed from the last checkpoint
    site
    submit long --nodes=2 -- job.cfg $settings --set checkpoint.every=20
    freeze run 21
    kill -KILL "$(ranks | tail -n 1)"
    thaw
    until_true 120 says 'a rank, a node or its disk failed' || fail "the failure is not told"
    ends COMPLETED 0
    lives 1
    equal run
}

case_hopeless() { # fails the same way in every life: given up after REQUEUE_LIMIT of them
    printf '#!/bin/sh\n[ "$1" = layout ] && exec "%s" "$@"\nkill -9 $$\n' "$TRIMTAB" >dies
    chmod +x dies
    site "TRIMTAB='$PWD/dies'"
    submit long -- job.cfg $settings
    ends FAILED
    lives 1
    says 'not queued again: 2 lives in a row' || fail "the script does not tell"
}

case_late_start() { # steps that do not start, as after a node failure, are tried again
    mkdir bin
    printf '#!/bin/bash\necho x >>"%s/tries"\n[ $(wc -l <"%s/tries") -gt 2 ] || exit 1\nexec "%s" "$@"\n' \
        "$PWD" "$PWD" "$(command -v srun)" >bin/srun
    chmod +x bin/srun
    site
    PATH=$PWD/bin:$PATH submit train --nodes=2 -- job.cfg $settings
    ends COMPLETED 0
    [ "$(grep -c 'did not start' "job-$JOB.log")" = 2 ] || fail "not tried again twice"
    equal run
}

case_sweep() { # an array, a group a task; submitted again nothing is done
    site
    cat >sweep.cfg <<END
@include "job.cfg"
sweep: { dir = "sweep"; group = 2; axes = ( { key = "train.lr"; values = [1e-3, 3e-3]; }, { key = "train.batch_size"; values = [4, 8]; } ); };
END
    "$TRIMTAB" sweep plan sweep.cfg >plan.out 2>&1 || fail "sweep plan: $(cat plan.out)"
    sweep_array || fail "the array is still at work"
    for group in g0000 g0001; do
        grep -q '"exit": *0' sweep/groups/$group.outcome.json || fail "not every group is done: $("$TRIMTAB" sweep status sweep)"
    done
    adapters_of sweep >before
    [ -s before ] || fail "no adapters"
    sweep_array || fail "the second array is still at work"
    adapters_of sweep | cmp - before || fail "the second array did something again"
}
adapters_of() { find "$1" -name '*.safetensors' -print0 | sort -z | xargs -0 sha256sum; }
sweep_array() {
    JOB=$("$SOURCE/slurm/submit.sh" sweep --parsable --output=task-%a.log -- sweep --quiet) || fail "not submitted"
    until_true 240 array_is_over
}
array_is_over() { [ -z "$(squeue -h -j "$JOB" -t pending,configuring,running,completing,requeued 2>/dev/null)" ]; }

case_told_early() { # a signal while the program only starts: 75, and the life is not lost
    site
    submit long --nodes=2 -- job.cfg $settings
    until_true 120 has_ranks || fail "no ranks"
    scancel --batch --signal=USR1 "$JOB"
    until_true 120 says 'queued again' || is_in COMPLETED || fail "not queued again"
    ends COMPLETED 0
    equal run
}
has_ranks() { [ -n "$(ranks)" ]; }
has_no_ranks() { [ -z "$(ranks)" ]; }

# --- All ------------------------------------------------------------------------------------------

cases=("$@")
if [ $# = 0 ]; then
    mapfile -t cases < <(declare -F | sed -n 's/^declare -f case_//p')
else
    cases+=(whole) # the others' measure
fi
data
mkfifo never
cat >noted <<END
#!/bin/sh
[ "\$1" = layout ] || echo \$\$ >>"pids.\$SLURM_JOB_ID.\${SLURM_RESTART_COUNT:-0}"
exec "$TRIMTAB" "\$@"
END
chmod +x noted
failed=0
declare -A pids
for name in $(printf '%s\n' "${cases[@]}" | sort -u); do
    mkdir -p "$name"
    cp train.jsonl eval.jsonl "$name"
    (
        cd "$name" || exit 1
        job job.cfg
        trap 'echo "$SECONDS" >seconds' EXIT
        "case_$name" >verdict 2>&1
    ) &
    pids[$name]=$!
done
for name in "${!pids[@]}"; do
    if wait "${pids[$name]}"; then
        printf '%3d s  %s\n' "$(cat "$name/seconds")" "$name: good"
    else
        printf '%3d s  %s\n' "$(cat "$name/seconds")" "$name: $(cat "$name/verdict")"
        tail -n 30 "$name"/*.log
        failed=1
    fi
done
exit $failed
