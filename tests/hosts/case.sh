# What the tests on several hosts share, beside the hosts (rig.sh): a job, waiting, verdicts.
# $TRIMTAB: the program; FULL=1: the long form.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
SOURCE=$(cd "$here/../.." && pwd)
MODEL=$SOURCE/jobs/quickstart/model
TRIMTAB=$(realpath "${TRIMTAB:-$SOURCE/build/release/trimtab}")
SLOW_LINK=$(realpath "${SLOW_LINK:-$SOURCE/build/release/tests/slow_link}")
export TRIMTAB
FULL=${FULL:-}
source "$here/rig.sh"
source "$SOURCE/tests/cli/common.sh"
! ldd "$TRIMTAB" 2>/dev/null | grep -q libmpich ||
    rig_skip "trimtab was built with MPICH, hosts are reached through Open MPI's mpirun"

# fail TEXT ...: with what the programs said.
fail() {
    echo "FAIL: $*"
    for file in "$RIG"/*.err "$RIG"/*.log; do
        [ -s "$file" ] && echo "--- $file" && tail -n 25 "$file"
    done
    exit 1
}

tell() { # with the time since the test began
    printf '%3d s  %s\n' $SECONDS "$*"
}

# row FAULT | TRIED | WHAT HAPPENED: of docs/reliability.md's table, for run.sh.
row() {
    [ -z "${ROWS:-}" ] || echo "| $1 | $2 | $3 | \`tests/hosts/run.sh ${FULL:+--full }$(basename "$0" .sh)\` |" >>"$ROWS"
}

# Options of every run here: STEPS steps, a checkpoint every EVERY, nothing evaluated.
settings() { # settings STEPS EVERY
    echo "--quiet --set train.steps=$1 --set checkpoint.every=$2 --set eval.before=false
        --set eval.after=false --set log.every=1"
}

layout() { # layout STAGESxREPLICAS
    echo "--set parallel.stages=${1%x*} --set parallel.replicas=${1#*x}"
}

adapter() { # adapter RUN STEP: of the newest life
    ls -d "$1"/checkpoints/step-"$(printf %010d "$2")".g??????/adapter.safetensors 2>/dev/null | tail -n 1
}

same_adapter() { # same_adapter RUN RUN STEP
    cmp "$(adapter "$1" "$3")" "$(adapter "$2" "$3")"
}

last_step() { # of a run's metrics
    sed -n 's/^{"kind":"train","step":\([0-9]*\),.*/\1/p' "$1/metrics.jsonl" 2>/dev/null | tail -n 1
}

is_past() { # is_past RUN STEP
    local at
    at=$(last_step "$1")
    [ "${at:-0}" -ge "$2" ]
}

has_checkpoint() { # has_checkpoint RUN STEP
    [ -n "$(adapter "$1" "$2")" ]
}

has_ended() { # has_ended PID
    ! kill -0 "$1" 2>/dev/null
}

all_quiet() { # all_quiet NAME HOST ...: no such process on any of them
    local name=$1 host
    shift
    for host in "$@"; do host_is_quiet "$host" "$name" || return 1; done
}

# --- A run on four hosts that something happens to -----------------------------------------------

four="h0:1 h1:1 h2:1 h3:1"
STEPS=200

# The run that nothing happens to, on one host: "whole".
whole_run() { # whole_run OPTIONS ...
    sets="$(settings $STEPS 50) $*"
    data
    job job.cfg
    host_mpirun h0:4 -n 4 "$TRIMTAB" train job.cfg $sets --set run.dir=whole 2>whole.err ||
        fail "the run on one host"
}

# Begins a run on four hosts in the background ($run), and waits until it has a checkpoint.
begin_run() { # begin_run NAME MPIRUN OPTIONS ...
    local name=$1
    shift
    host_mpirun "$four" "$@" -n 4 "$TRIMTAB" train job.cfg $sets --set run.dir="$name" \
        >"$name.log" 2>"$name.err" &
    run=$!
    wait_until 100 has_checkpoint "$name" 50 || fail "no checkpoint of $name"
    has_ended $run && fail "$name ended before anything happened to it"
}

# Waits for $run; its exit status in $status.
end_run() { # end_run SECONDS NAME
    local begin=$SECONDS
    wait_until "$1" has_ended $run || fail "$2 still runs after $1 s"
    wait $run
    status=$?
    took=$((SECONDS - begin))
}

# Every checkpoint reads back as it was written.
all_whole() { # all_whole RUN
    "$TRIMTAB" inspect "$1" >inspect.log 2>&1 || fail "trimtab inspect $1"
    ! grep -qi "damaged" inspect.log || fail "a damaged checkpoint in $1"
}

# Goes on to the end on these hosts, and must end where the whole run did.
resume_on() { # resume_on HOSTS NAME
    local at
    at=$(ls "$2/checkpoints" | grep -c "^step-$(printf %010d $STEPS)")
    [ "$at" = 0 ] || fail "$2 had ended before it was resumed"
    host_mpirun "$1" -n 4 "$TRIMTAB" train job.cfg $sets --set run.dir="$2" --resume \
        2>"$2.resume.err" || fail "resume of $2 on $1"
    same_adapter whole "$2" $STEPS || fail "$2, resumed, ends elsewhere than the whole run"
}
