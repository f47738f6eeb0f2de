# Slurm over the hosts of rig.sh: the controller on h0, a node on each other host. Source it after
# case.sh; its parts are those of tests/slurm/cluster.sh.
source "${CLUSTER:-$SOURCE/tests/slurm/cluster.sh}"

# cluster_of_hosts 1 2 3: nodes h1 h2 h3, which are up. A node that is not heard of for 10 s is down.
cluster_of_hosts() {
    local dir=$RIG/slurm i
    cluster_configure "$dir" 0 4 "SlurmdPort=16818
SlurmdTimeout=10
SlurmctldTimeout=10
MessageTimeout=5
TCPTimeout=2"
    chmod 755 "$RIG_DIR" # munged wants its socket to be in reach
    sed -i 's/^SlurmctldHost=.*/SlurmctldHost=h0(10.77.0.10)/' "$dir/slurm.conf"
    for i in "$@"; do
        mkdir -p "$dir"/{spool,tmp}/h"$i"
        echo "NodeName=h$i NodeHostname=h$i NodeAddr=10.77.0.$((10 + i)) CPUs=4 RealMemory=4000 State=UNKNOWN"
    done >>"$dir/slurm.conf"
    export SLURM_CONF=$dir/slurm.conf PATH=$PATH:/usr/sbin:/sbin
    munged --socket="$dir/munge/sock" --key-file="$dir/munge/key" --pid-file="$dir/munge/pid" \
        --log-file="$dir/munge/log" --seed-file="$dir/munge/seed" --num-threads=2 9>&-
    on h0 slurmctld -i -f "$SLURM_CONF" 9>&-
    for i in "$@"; do node_up "h$i"; done
    wait_until 60 nodes_are idle $# || fail "the nodes do not come up: $(on h0 sinfo; tail -n 5 "$dir"/log/*.log)"
}

node_up() { # node_up HOST: its daemon
    on "$1" slurmd -N "$1" -f "$SLURM_CONF" 9>&-
}

nodes_are() { # nodes_are STATE COUNT
    [ "$(on h0 sinfo -h -N -t "$1" -p main -o %N 2>/dev/null | wc -l)" = "$2" ]
}

node_is() { # node_is HOST PATTERN: of its state
    [[ $(on h0 sinfo -h -N -n "$1" -p main -o %T 2>/dev/null) == $2 ]]
}

job_state() { # job_state JOB
    on h0 squeue -h -t all -j "$1" -o %T 2>/dev/null
}

job_is() { # job_is JOB STATE
    [ "$(job_state "$1")" = "$2" ]
}

job_fact() { # job_fact JOB KEY
    on h0 scontrol show job "$1" 2>/dev/null | tr ' ' '\n' | sed -n "s/^$2=//p" | head -n 1
}

job_restarts_are() { # job_restarts_are JOB COUNT
    [ "$(job_fact "$1" Restarts)" = "$2" ]
}
