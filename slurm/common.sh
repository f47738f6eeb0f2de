# shellcheck shell=bash
# Shared by the batch scripts of this directory; sourced by them, never run.
#
#     trimtab_find_job JOB.cfg OPTIONS ...         what runs: RUN_DIR, RANKS, LAYOUT
#     trimtab_live train JOB.cfg OPTIONS ...       runs it, and ends the script as its exit code asks
#
# Words given by a user are only ever passed on as words: nothing of them is evaluated.

say() { echo "slurm: $(date '+%F %T'): $*"; }

trimtab_site() {
    local module
    trap on_warning USR1 # before anything that takes time
    trap on_end TERM
    # shellcheck source=slurm/site.conf
    source "${TRIMTAB_SITE:-$TRIMTAB_SLURM_DIR/site.conf}"
    if [ ${#MODULES[@]} -gt 0 ]; then
        for module in "${MODULES[@]}"; do
            module load "$module" || { say "module load $module failed"; exit 78; }
        done
    fi
    # Beside these scripts as built, or as installed (PREFIX/share/trimtab/slurm), or anywhere.
    if [ -z "$TRIMTAB" ]; then
        for TRIMTAB in "$TRIMTAB_SLURM_DIR"/../build/release/trimtab \
            "$TRIMTAB_SLURM_DIR"/../../../bin/trimtab "$(command -v trimtab)"; do
            [ ! -x "$TRIMTAB" ] || break
        done
    fi
    [ -x "$TRIMTAB" ] || { say "no program \"$TRIMTAB\": build it, or set TRIMTAB in site.conf"; exit 78; }
    [ -z "$SCRATCH" ] || export TMPDIR=$SCRATCH
    [ -n "$REQUEUE" ] || REQUEUE=${TRIMTAB_REQUEUE:-no}
    # Without keep-alive a dead link hangs mpirun and its daemons silently; and what is told to end
    # kills its ranks after a second, before they can write a checkpoint.
    local of
    for of in OMPI_MCA PRTE_MCA; do # Open MPI 4; 5
        export "${of}_oob_tcp_keepalive_time=$KEEPALIVE_SECONDS"
        export "${of}_oob_tcp_keepalive_intvl=$KEEPALIVE_INTERVAL"
        export "${of}_oob_tcp_keepalive_probes=3"
        export "${of}_odls_base_sigkill_timeout=$TERM_SECONDS"
    done
}

# --- Where ranks go -------------------------------------------------------------------------------

# NUMA domains with cores that this job may use on this node; 1 where the system tells of none.
numa_domains() {
    local n
    n=$(lscpu --parse=NODE 2>/dev/null | grep -v '^#' | sort -u | grep -c '[0-9]') || n=0
    echo $((n > 0 ? n : 1))
}

# Decides TASKS_PER_NODE, CPUS_PER_RANK (as Slurm counts them) and DOMAINS. What sbatch was asked for
# (--ntasks-per-node, --cpus-per-task) comes before site.conf.
trimtab_place() {
    local cpus=${SLURM_CPUS_ON_NODE:-$(nproc)}
    DOMAINS=$(numa_domains)
    TASKS_PER_NODE=${SLURM_NTASKS_PER_NODE:-$RANKS_PER_NODE}
    [ -n "$TASKS_PER_NODE" ] || TASKS_PER_NODE=$((DOMAINS * RANKS_PER_NUMA))
    [ "$TASKS_PER_NODE" -le "$cpus" ] || TASKS_PER_NODE=$cpus
    CPUS_PER_RANK=${SLURM_CPUS_PER_TASK:-}
    [ -n "$CPUS_PER_RANK" ] || CPUS_PER_RANK=${CORES_PER_RANK:-$((cpus / TASKS_PER_NODE))}
    # Fewer cores than Slurm thinks, or ranks that do not share out evenly among the domains: a rank
    # bound there would get in another's way.
    BOUND=$BIND
    [ $((TASKS_PER_NODE * CPUS_PER_RANK)) -le "$(nproc)" ] || BOUND=none
    [ $((TASKS_PER_NODE % DOMAINS)) = 0 ] || [ $((DOMAINS % TASKS_PER_NODE)) = 0 ] || BOUND=none
    if [ "$BOUND" != none ]; then export OMP_PLACES=cores OMP_PROC_BIND=close; fi
}

# LAUNCH: the launcher and its options for $RANKS ranks.
trimtab_launcher() {
    local nodes=${SLURM_JOB_NUM_NODES:-1} map
    [ "$nodes" -le "$RANKS" ] || nodes=$RANKS
    if [ "$LAUNCHER" = srun ]; then
        # Ranks of a node one after another, on cores one after another: those of a domain together.
        # Not --kill-on-bad-exit: ranks that end with 75 one after another would kill each other, and
        # 143 come out of it. A rank that dies ends the others through PMIx, within seconds.
        LAUNCH=(srun "--mpi=$SRUN_MPI" --kill-on-bad-exit=0 --wait=30 "--nodes=$nodes" "--ntasks=$RANKS"
            "--ntasks-per-node=$TASKS_PER_NODE" "--cpus-per-task=$CPUS_PER_RANK"
            --distribution=block:block)
        if [ "$BOUND" = none ]; then
            LAUNCH+=(--cpu-bind=none)
        else
            LAUNCH+=(--cpu-bind=cores --mem-bind=local)
        fi
        LAUNCH+=(${SRUN_OPTIONS[@]+"${SRUN_OPTIONS[@]}"})
        return
    fi
    # mpirun takes a node's slots from this; the job may have been submitted with one task a node.
    export SLURM_TASKS_PER_NODE="$TASKS_PER_NODE(x${SLURM_JOB_NUM_NODES:-1})"
    [ "${SLURM_JOB_NUM_NODES:-1}" != 1 ] || SLURM_TASKS_PER_NODE=$TASKS_PER_NODE
    map=ppr:$TASKS_PER_NODE:node
    if [ "$BOUND" != none ] && [ "$DOMAINS" -gt 1 ] && [ $((TASKS_PER_NODE % DOMAINS)) = 0 ]; then
        map=ppr:$((TASKS_PER_NODE / DOMAINS)):numa
    fi
    if [ "$BOUND" = none ]; then
        LAUNCH=(mpirun -n "$RANKS" --map-by "$map" --bind-to none)
    else
        LAUNCH=(mpirun -n "$RANKS" --map-by "$map:PE=$(cores_of "$CPUS_PER_RANK")" --bind-to core)
    fi
    LAUNCH+=(${MPIRUN_OPTIONS[@]+"${MPIRUN_OPTIONS[@]}"})
}

# Whole cores in so many CPUs: Slurm may count hardware threads, mpirun counts cores.
cores_of() {
    local threads
    threads=$(lscpu 2>/dev/null | sed -n 's/^Thread(s) per core: *\([0-9][0-9]*\)$/\1/p')
    [ -n "$threads" ] && [ "$1" -ge "$threads" ] || threads=1
    echo $(($1 / threads))
}

# What runs: sets RANKS, RUN_DIR, and LAYOUT to the options that change the job's layout to one that
# this allocation, which may not be the one of the last life, has ranks for.
trimtab_find_job() {
    local most answer key value stages=1 replicas=1 status=0
    most=$((TASKS_PER_NODE * ${SLURM_JOB_NUM_NODES:-1}))
    answer=$("$TRIMTAB" layout "$@" "--ranks=$most") || status=$?
    # A job that is wrong stays wrong. (Its own words are on standard error.)
    if [ $status != 0 ]; then
        say "the job cannot run here (exit code $status); not tried again"
        exit $status
    fi
    RANKS=1 RUN_DIR='' LAYOUT=()
    while read -r key value; do
        case $key in
        ranks) RANKS=$value ;;
        stages) stages=$value ;;
        replicas) replicas=$value ;;
        note) say "$value: $stages stages x $replicas replicas" ;;
        run_dir) RUN_DIR=$value ;;
        esac
    done <<<"$answer"
    # shellcheck disable=SC2034 # the scripts pass it on
    LAYOUT=("--set=parallel.stages=$stages" "--set=parallel.replicas=$replicas")
}

# --- A life ---------------------------------------------------------------------------------------

STOPPING='' ENDING='' STEP='' RESEND='' N_SIGNALS=0

# The early warning: passed on to the ranks, which finish their step, write a checkpoint, end with 75.
# Repeated, as one that comes before the launcher can take it is lost.
on_warning() {
    N_SIGNALS=$((N_SIGNALS + 1))
    [ -z "$STOPPING" ] || return 0
    STOPPING=yes
    say "told to stop: the step is finished, and a checkpoint written"
    [ -z "$STEP" ] || keep_telling
}

keep_telling() {
    kill -USR1 "$STEP" 2>/dev/null || true
    (while sleep 5 && kill -USR1 "$STEP" 2>/dev/null; do :; done) &
    RESEND=$!
}

# The end (scancel, preemption, the time limit): Slurm has told the ranks as well. Whether there is a
# next life is for Slurm to say.
on_end() {
    N_SIGNALS=$((N_SIGNALS + 1))
    [ -n "$ENDING" ] || say "told to end by Slurm"
    ENDING=yes
}

# The exit code of the step. A signal to this script ends the wait, not the step.
wait_for_step() {
    local status last=127 before
    while :; do
        before=$N_SIGNALS status=0
        wait "$STEP" || status=$?
        [ $status != 127 ] || return $last # it had ended by the signal
        [ "$N_SIGNALS" != "$before" ] || return $status
        last=$status
    done
}

# Runs the command on all ranks, and is its exit code. The mark is made by the first rank: without it
# the step never started. (sh becomes the program.)
run_step() {
    local status=0
    rm -f "$MARK"
    # shellcheck disable=SC2016
    "${LAUNCH[@]}" sh -c '
        if [ "${SLURM_PROCID:-0}" = 0 ] && [ "${OMPI_COMM_WORLD_RANK:-0}" = 0 ]; then : >"$0"; fi
        exec "$@"' "$MARK" "$TRIMTAB" "$@" &
    STEP=$!
    [ -z "$STOPPING" ] || [ -n "$RESEND" ] || keep_telling # told just before
    wait_for_step || status=$?
    STEP=''
    [ -z "$RESEND" ] || kill "$RESEND" 2>/dev/null || true
    return $status
}

# Tries to start the step, again and again with growing pauses while it does not even begin: after a
# node failure the old step may still be being cleaned up.
run_until_started() {
    local tries=0 pause=2 status
    while :; do
        [ -z "$STOPPING$ENDING" ] || return 75
        status=0
        run_step "$@" || status=$?
        if [ -e "$MARK" ] || [ -n "$STOPPING$ENDING" ] || [ $status = 0 ]; then return $status; fi
        tries=$((tries + 1))
        if [ $tries -ge "$START_TRIES" ]; then
            say "the step did not start, $tries times (exit code $status)"
            return 1
        fi
        say "the step did not start (exit code $status): again in $pause s"
        sleep $pause &
        wait $! || true
        pause=$((pause * 2))
    done
}

# How far the run is: the steps of the newest checkpoints of all run directories in it.
progress() {
    local dir name best sum=0
    for dir in "$RUN_DIR"/checkpoints "$RUN_DIR"/*/checkpoints; do
        [ -d "$dir" ] || continue
        best=0
        for name in "$dir"/step-??????????.g*; do
            name=${name##*/step-}
            name=${name%%.*}
            case $name in *[!0-9]*) continue ;; esac
            [ $((10#$name)) -le $best ] || best=$((10#$name))
        done
        sum=$((sum + best))
    done
    echo $sum
}

# Lives in a row, this one included, that ended without a new checkpoint. Kept in the run directory.
count_lives_without_progress() {
    local file=$RUN_DIR/slurm.lives was=-1 n=0 now
    now=$(progress)
    [ ! -f "$file" ] || read -r was n <"$file" || true
    case $was$n in *[!0-9-]*) was=-1 n=0 ;; esac
    if [ "$now" = "$was" ]; then n=$((n + 1)); else n=0; fi
    [ "$now" != 0 ] || [ "$was" != -1 ] || n=1
    mkdir -p "$RUN_DIR"
    echo "$now $n" >"$file.new.$SLURM_JOB_ID" && mv "$file.new.$SLURM_JOB_ID" "$file"
    echo $n
}

# Is this the life that Slurm knows of? A script on a node that was cut off lives on while Slurm has
# begun the next life of the same job, which it must not queue again.
is_newest_life() {
    local job
    job=$(scontrol show job "$SLURM_JOB_ID" 2>/dev/null) ||
        { say "Slurm does not answer: not queued again by this life"; return 1; }
    case $job in *" Restarts=${SLURM_RESTART_COUNT:-0} "*) return 0 ;; esac
    say "Slurm has begun another life of job $SLURM_JOB_ID: leaving it alone"
    return 1
}

# Ends this life; the job is queued again, unless that has been done too often for nothing.
requeue() { # requeue EXIT_CODE WHY
    local n
    if [ "$REQUEUE" != yes ]; then
        say "$2; submit the same line again to go on"
        exit "$1"
    fi
    is_newest_life || exit "$1"
    n=$(count_lives_without_progress)
    if [ "$n" -ge "$REQUEUE_LIMIT" ]; then
        say "$2; not queued again: $n lives in a row without a new checkpoint"
        exit "$1"
    fi
    say "$2; queued again"
    trap '' TERM # Slurm ends this script at once; it has nothing left to do
    scontrol requeue "$SLURM_JOB_ID" || { say "scontrol requeue failed"; exit "$1"; }
    sleep 60
    exit "$1"
}

# Somebody's wish to stop outlives the job's own wish to go on, unless it says otherwise.
heed_stop_file() {
    local line=''
    [ -e "$RUN_DIR/stop" ] || return 0
    read -r line <"$RUN_DIR/stop" || true
    if [ "$line" = requeue ]; then
        rm -f "$RUN_DIR/stop"
        return 0
    fi
    say "$RUN_DIR/stop is there: not queued again; remove it and submit to go on"
    exit 75
}

# Does the job give way to another? Its ranks are told to end before this script is; the nodes stay
# the job's until the time of grace is over.
is_preempted() {
    local job
    job=$(scontrol show job "$SLURM_JOB_ID" 2>/dev/null) || return 1
    case $job in *PreemptTime=None*) return 1 ;; *JobState=RUNNING*PreemptTime=*) return 0 ;; esac
    return 1
}

# Slurm queues it again when the time of grace is over, unless the script has left by then.
wait_for_slurm() {
    say "preempted: waiting to be queued again by Slurm"
    sleep 3600 &
    wait $! || true
    exit 75
}

# Runs trimtab with these words, and ends the script.
trimtab_live() {
    local status=0
    MARK=$RUN_DIR/slurm.started.$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}
    mkdir -p "$RUN_DIR" || exit 74
    trimtab_launcher
    say "life ${SLURM_RESTART_COUNT:-0} of job $SLURM_JOB_ID on ${SLURM_JOB_NODELIST:-?}: $RANKS ranks by ${LAUNCH[0]}, $TASKS_PER_NODE a node of $CPUS_PER_RANK CPUs, bound to: $BOUND"
    run_until_started "$@" || status=$?
    rm -f "$MARK"
    case $status in
    0)
        rm -f "$RUN_DIR/slurm.lives"
        exit 0
        ;;
    64 | 65 | 66 | 76 | 78)
        say "exit code $status: this would happen again; not tried again"
        exit $status
        ;;
    77)
        say "exit code 77: a newer life has the run; leaving it alone"
        exit 77
        ;;
    esac
    if is_preempted; then
        [ "$REQUEUE" = yes ] || wait_for_slurm
        requeue 75 "preempted, stopped with a checkpoint (exit code $status)"
    fi
    if [ -n "$ENDING" ]; then
        say "ended by Slurm (exit code $status)"
        exit 75
    fi
    heed_stop_file
    if [ -n "$STOPPING" ] || [ $status = 75 ]; then
        requeue 75 "stopped with a checkpoint (exit code $status)"
    fi
    requeue $status "a rank, a node or its disk failed (exit code $status)"
}
