# shellcheck shell=bash
# Parts of a private Slurm cluster on one machine; sourced by rig.sh (and by tests/hosts, whose nodes
# have a network namespace each). DIR is the cluster's directory; nothing outside it is written.

# Are root's rights, Slurm and namespaces to be had? Otherwise says on standard output what lacks.
cluster_can_run() {
    local program
    [ "$(id -u)" = 0 ] || { echo "skipped: a cluster of one's own needs root"; return 1; }
    for program in slurmctld slurmd munged sbatch srun mpirun unshare ip flock; do
        PATH=$PATH:/usr/sbin:/sbin command -v $program >/dev/null ||
            { echo "skipped: no $program here (jobs/setup.sh tests installs it)"; return 1; }
    done
    unshare --pid --fork --mount --mount-proc --net --uts --ipc true 2>/dev/null ||
        { echo "skipped: namespaces cannot be made here"; return 1; }
}

# Removes directories of rigs that were killed: nobody holds their lock.
cluster_sweep() {
    local dir
    for dir in "${TMPDIR:-/tmp}"/trimtab-slurm.??????; do
        [ -f "$dir/alive" ] || continue
        flock --nonblock "$dir/alive" true || continue
        rm -rf "$dir"
    done
}

# Writes DIR/slurm.conf: cluster_configure DIR N_NODES CPUS [MORE LINES]
# A node's processes: proctrack/linuxproc, no cgroups. TmpFS differs by node, or PMIx of two nodes of
# one host would take each other's directory. cred_expire: a requeued job starts after 10 s, not 120.
cluster_configure() {
    local dir=$1 n=$2 cpus=$3 more=${4:-} host i
    host=$(hostname)
    mkdir -p "$dir"/{state,log,munge}
    for i in $(seq "$n"); do mkdir -p "$dir"/{spool,tmp}/n"$i"; done
    (umask 077; head -c 1024 /dev/urandom >"$dir/munge/key")
    cat >"$dir/slurm.conf" <<END
ClusterName=rig
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge/sock,cred_expire=10
CredType=cred/munge
SlurmctldPort=16817
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
TmpFS=$dir/tmp/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=pmix
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=0,batch_sched_delay=0
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=20
MinJobAge=3600
InactiveLimit=0
Waittime=0
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PreemptExemptTime=0
JobCompType=jobcomp/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP OverSubscribe=NO PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF
$more
END
    for i in $(seq "$n"); do
        echo "NodeName=n$i NodeHostname=$host NodeAddr=127.0.0.1 Port=$((17000 + i)) CPUs=$cpus RealMemory=4000 State=UNKNOWN"
    done >>"$dir/slurm.conf"
}

# Starts the daemons and waits until all nodes are idle: cluster_start DIR N_NODES
cluster_start() {
    local dir=$1 n=$2 i
    export SLURM_CONF=$dir/slurm.conf
    export OMPI_MCA_mpi_yield_when_idle=1 # more ranks than cores
    export PATH=$PATH:/usr/sbin:/sbin OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    munged --socket="$dir/munge/sock" --key-file="$dir/munge/key" --pid-file="$dir/munge/pid" \
        --log-file="$dir/munge/log" --seed-file="$dir/munge/seed" --num-threads=2
    slurmctld -i -f "$SLURM_CONF"
    for i in $(seq "$n"); do slurmd -N "n$i" -f "$SLURM_CONF"; done
    for i in $(seq 300); do
        [ "$(sinfo -h -N -t idle -p main -o %N 2>/dev/null | wc -l)" != "$n" ] || return 0
        sleep 0.2
    done
    echo "rig: the nodes did not come up within 60 s" >&2
    tail -n 5 "$dir"/log/*.log >&2
    return 1
}
