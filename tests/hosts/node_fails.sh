#!/usr/bin/env bash
# Slurm loses a node of a job while the old ranks on it live: the job is requeued, goes on elsewhere
# and ends right; the old writer finds out, leaves with 77, and has changed nothing; the node comes back.
source "$(dirname "${BASH_SOURCE[0]}")/case.sh"
source "$here/cluster.sh"
rig_enter "$@"
cluster_can_run || exit 77
host_up 0 1 2 3
cluster_of_hosts 1 2 3
STEPS=200
data
job job.cfg
for l in 1x2 2x1; do
    host_mpirun h0:2 -n 2 "$TRIMTAB" train job.cfg $(settings $STEPS 50) $(layout $l) \
        --set run.dir=whole.$l 2>whole.err || fail "the run on one host"
done

if [ -f "$SOURCE/slurm/site.conf" ]; then
    cp "$SOURCE/slurm/site.conf" site.conf
    printf 'TRIMTAB=%q\n' "$TRIMTAB" >>site.conf
    export TRIMTAB_SITE=$RIG/site.conf
fi

all_of() { # all there is of a run but the metrics, where rows tell their life
    (cd "$1" && find . -path ./metrics.jsonl -prune -o -path "./slurm.started.*" -prune -o -type f -print0 | sort -z |
        xargs -0 sha256sum && find . -type d | sort)
}
submit() { # submit NAME LAYOUT SBATCH OPTIONS ...: $job is its number
    local name=$1 l=$2
    shift 2
    job=$(cd "$RIG" && TRIMTAB=$TRIMTAB OMP_NUM_THREADS=1 on h0 sbatch --parsable --requeue --open-mode=append -t 30 \
        -o "$name.log" "$@" "$SOURCE/slurm/train.sbatch" job.cfg $(settings $STEPS 50) $(layout $l) \
        --set run.dir="$name") || fail "sbatch"
}

# The link of the node is cut while its ranks are frozen in the midst of the run; once a new life has
# ended the run they are let go, and then the link is back.
node_fails() { # node_fails NAME LAYOUT batch|other SBATCH OPTIONS ...
    local name=$1 l=$2 which=$3 node began nodes
    shift 3
    submit "$name" "$l" "$@"
    wait_until 200 has_checkpoint "$name" 50 || fail "$name does not start: $(job_state $job)"
    node=$(job_fact $job BatchHost)
    nodes=$(on h0 scontrol show hostnames "$(job_fact $job NodeList)")
    [ "$which" = batch ] || node=$(grep -v "^$node\$" <<<"$nodes")
    host_signal STOP "$node" trimtab
    cable_pull "$node"
    began=$SECONDS
    [ ! -f "$(adapter "$name" $STEPS)" ] || fail "$name had ended before the link was cut"
    wait_until 200 job_restarts_are $job 1 || fail "job $job is not requeued: $(job_state $job)"
    tell "$name: $node of" $nodes "cut off, job requeued after $((SECONDS - began)) s"
    detected="$detected $((SECONDS - began))"
    wait_until 200 test -e "$name/generations/000002" || fail "no second life: $(job_state $job)"
    tell "$name: second life on $(job_fact $job NodeList) after $((SECONDS - began)) s"
    resumed="$resumed $((SECONDS - began))"
    wait_until 200 job_is $job COMPLETED || fail "job $job: $(job_state $job)"
    same_adapter whole.$l "$name" $STEPS || fail "$name ends elsewhere than the whole run"
    ! host_is_quiet "$node" trimtab || fail "no old rank lives on $node"
    all_of "$name" >"$name.after_new"
    old_life_ends "$name" "$node" "$which"
    all_of "$name" >"$name.after_old"
    cmp "$name.after_new" "$name.after_old" || fail "the old life changed the run: $(diff "$name.after_new" "$name.after_old")"
    same_adapter whole.$l "$name" $STEPS || fail "$name ends elsewhere than the whole run"
    job_is $job COMPLETED || fail "job $job: $(job_state $job) after the node came back"
    all_whole "$name"
    n=$((n + 1))
}

# Ranks that have all of their peers find the new life at the next checkpoint; others wait for peers
# that are gone, and are ended when the node comes back.
old_life_ends() { # old_life_ends NAME NODE batch|other
    host_signal CONT "$2" trimtab
    if [ "$(job_fact $job NumNodes)" = 1 ]; then
        wait_until 200 host_is_quiet "$2" trimtab || fail "old ranks on $2 do not end"
        grep -q "a newer life of this run has taken over: found generation 2" "$1.log" ||
            fail "the old life does not tell why it ended"
        tell "$1: the old writer on $2 left with 77"
    fi
    cable_plug "$2"
    wait_until 200 node_is "$2" idle || fail "$2 does not come back: $(on h0 sinfo -N)"
    wait_until 200 host_is_quiet "$2" trimtab || fail "old ranks on $2 do not end"
    tell "$1: $2 is back"
}

n=0 detected="" resumed=""
node_fails writer 1x2 batch -N1 --ntasks-per-node=2
for i in ${FULL:+1 2 3}; do
    node_fails writer.$i 2x1 batch -N1 --ntasks-per-node=2
    node_fails other.$i 1x2 other -N2 --ntasks-per-node=1
    node_fails batch.$i 2x1 batch -N2 --ntasks-per-node=1
done
row "Slurm: link of a job's node cut (SlurmdTimeout 10 s), the old ranks on it alive" $n \
    "requeued after${detected// /, } s, second life after${resumed// /, } s; same bits as undisturbed; old writer ends with 77, old ranks without peers end when the node is back; they change nothing"
