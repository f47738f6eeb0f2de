# Hosts on one machine, for a test to source: every host has its own network, host name, /dev/shm,
# processes, mounts and monotonic clock (Linux namespaces), and a cable to one switch. All of it lives in a process
# namespace of its own, whose first process is the test's shell: when that ends, however it ends, the
# kernel ends everything in it and takes namespaces, interfaces and mounts away. Only an empty
# directory may be left, which the next run removes.
#
#     source "$(dirname "$0")/rig.sh"
#     rig_enter "$@"              the script starts again, inside; 77 where that is not possible
#     host_up 0 1 2 3             h0 ... h3, 10.77.0.10 ... 13
#     on h2 COMMAND ...           runs there (in the same directory)
#     cable_pull h2; cable_plug h2       nothing gets through any more, unnoticed; and again
#     host_kill h2                power off
#
# $RIG is a file system in memory that all hosts share, as a cluster's: it is the current directory,
# and is not reached over the cables: a cut-off host goes on writing there, the worst case.
# h0 sees the processes of all hosts: mpirun's agent starts there. Nothing else does.

rig_skip() {
    echo "skipped: $*"
    exit 77
}

# What dead runs left: their directory is no longer locked.
rig_sweep() {
    local dir
    for dir in "${TMPDIR:-/tmp}"/trimtab-hosts.*; do
        [ -f "$dir/lock" ] || continue
        flock -n "$dir/lock" rm -rf --one-file-system "$dir"
    done
}

rig_enter() {
    if [ -n "${RIG_DIR:-}" ]; then
        rig_inside
        return
    fi
    local tool
    [ "$(id -u)" = 0 ] || rig_skip "hosts are namespaces, which only root may make"
    for tool in ip tc nsenter unshare flock mpirun; do
        command -v $tool >/dev/null || rig_skip "no $tool here (jobs/setup.sh tests installs it)"
    done
    mpirun --version 2>/dev/null | grep -q "Open MPI" ||
        rig_skip "mpirun is not Open MPI's, whose options these tests need"
    unshare --net --uts --ipc --pid --mount --fork true 2>/dev/null ||
        rig_skip "no right to make namespaces"
    rig_sweep
    RIG_DIR=$(mktemp -d "${TMPDIR:-/tmp}/trimtab-hosts.XXXXXX") || exit 1
    exec 9>"$RIG_DIR/lock"
    flock 9
    export RIG_DIR
    exec unshare --net --uts --ipc --pid --mount --fork --kill-child --mount-proc bash "$0" "$@"
}

rig_inside() {
    export RIG=$RIG_DIR/fs
    mkdir -p "$RIG"
    mount -t tmpfs -o mode=755 tmpfs "$RIG" || exit 1
    trap rig_down EXIT
    cd "$RIG" || exit 1
    mkdir pids tmp bin unplugged
    rig_write_on >bin/on
    rig_write_agent >bin/agent
    chmod +x bin/on bin/agent
    echo "127.0.0.1 localhost" >hosts
    for i in 0 1 2 3 4 5 6 7; do echo "10.77.0.$((10 + i)) h$i" >>hosts; done
    ip link set lo up
    ip link add switch type bridge && ip link set switch up || rig_skip "no bridge in this kernel"
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
}

# bin/on HOST COMMAND ...: there, in the same directory, with a TMPDIR of the host's own.
rig_write_on() {
    cat <<'END'
#!/bin/bash
host=$1
shift
pid=$(cat "$RIG/pids/$host") || exit 1
[ "$host" = h0 ] || processes=--pid
[ "$host" = h0 ] || [ ! -e /proc/self/ns/time ] || processes="--pid --time"
export TMPDIR=$RIG/tmp/$host
exec nsenter -t "$pid" --net --uts --ipc --mount --wdns="$PWD" $processes -- "$@"
END
}

# bin/agent HOST COMMAND ...: what mpirun starts its daemons with, in place of ssh. As with that, that
# the daemon has ended is heard of only once the cable is in.
rig_write_agent() {
    cat <<'END'
#!/bin/bash
host=$1
shift
[ ! -e "$RIG/unplugged/$host" ] || { echo "agent: no route to $host" >&2; exit 255; }
"$RIG/bin/on" "$host" bash -c "$*"
status=$?
while [ -e "$RIG/unplugged/$host" ]; do sleep 0.1; done
exit $status
END
}

rig_down() {
    local status=$?
    trap - EXIT
    cd /
    umount -l "$RIG"
    rm -rf --one-file-system "$RIG_DIR"
    exit $status
}

on() {
    "$RIG/bin/on" "$@"
}

# wait_until SECONDS COMMAND ...: until it succeeds; fails when it has not by then.
wait_until() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.05
    done
}

host_up() {
    local i
    for i in "$@"; do host_start $i; done
}

host_start() {
    local i=$1 flags="--pid --fork --kill-child --mount-proc"
    # Monotonic clocks count from when a machine was started.
    [ ! -e /proc/self/ns/time ] || flags="$flags --time --monotonic $((i * 1000))"
    [ $i != 0 ] || flags=""
    mkdir -p "tmp/h$i"
    rm -f "tmp/h$i/up"
    unshare --net --uts --ipc --mount $flags bash -c '
        hostname "$1"
        mount -t tmpfs tmpfs /dev/shm && mount --bind hosts /etc/hosts && ip link set lo up &&
            touch "tmp/$1/up"
        while :; do sleep 3600 & wait $!; done' - "h$i" 9>&- 2>/dev/null &
    wait_until 30 test -f "tmp/h$i/up" || { echo "h$i does not come up"; exit 1; }
    local pid=$!
    [ $i = 0 ] || read -r pid _ </proc/$pid/task/$pid/children
    echo $pid >"pids/h$i"
    ip link add "p$i" type veth peer name eth0 netns $pid
    ip link set "p$i" master switch up
    on h$i ip addr add 10.77.0.$((10 + i))/24 dev eth0
    on h$i ip link set eth0 up
    rm -f "unplugged/h$i"
}

# A host loses what it sends and gets nothing, and does not notice (the far side of its switch).
cable_pull() {
    touch "unplugged/$1"
    ip link set "p${1#h}" nomaster
}

cable_plug() {
    ip link set "p${1#h}" master switch
    rm "unplugged/$1"
}

# Process ids, as seen here, of all that runs on a host (not what holds the host itself), or of the
# commands of that name.
host_processes() { # host_processes HOST [NAME]
    local host=$1 holder net p
    holder=$(cat "$RIG/pids/$host")
    net=$(readlink "/proc/$holder/ns/net")
    for p in /proc/[0-9]*; do
        [ "$(readlink "$p/ns/net" 2>/dev/null)" = "$net" ] || continue
        [ "${p#/proc/}" != "$holder" ] && [ "$(cat "$p/comm" 2>/dev/null)" != unshare ] || continue
        [ -z "${2:-}" ] || [ "$(cat "$p/comm" 2>/dev/null)" = "$2" ] || continue
        [ "$(sed -n 's/^PPid:\t//p' "$p/status" 2>/dev/null)" != "$holder" ] ||
            [ "$(cat "$p/comm" 2>/dev/null)" != sleep ] || continue
        grep -q '^State:	Z' "$p/status" 2>/dev/null || echo "${p#/proc/}"
    done
}

host_signal() { # host_signal SIGNAL HOST [NAME]
    local pids
    pids=$(host_processes "$2" "${3:-}")
    [ -z "$pids" ] || kill -"$1" $pids 2>/dev/null
}

host_is_quiet() { # no process of that name there
    [ -z "$(host_processes "$1" "$2")" ]
}

host_kill() {
    touch "unplugged/$1"
    kill -9 "$(cat "pids/$1")"
    ip link del "p${1#h}" 2>/dev/null || true # gone with the host, a moment later
    rm "pids/$1"
}

# Keep-alive of the launcher's daemons: what a test needs to see a dead link soon. (What is right for
# a cluster: docs/hosts.md.)
soon_alive="--mca oob_tcp_keepalive_time 3 --mca oob_tcp_keepalive_intvl 1
    --mca oob_tcp_keepalive_probes 2"

# host_mpirun "h0:1 h1:1" ARGUMENTS ...: mpirun on h0, over these hosts.
host_mpirun() {
    local list=$1 host
    shift
    for host in $list; do echo "${host%:*} slots=${host#*:}"; done >"hostfile.$BASHPID"
    on h0 env OMP_NUM_THREADS=1 mpirun --mca plm rsh --mca plm_rsh_agent "$RIG/bin/agent" \
        --mca ras ^slurm --hostfile "hostfile.$BASHPID" --bind-to none --oversubscribe \
        --mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24 \
        --mca mpi_yield_when_idle 1 --mca btl_vader_single_copy_mechanism none "$@"
}

# cable_spoil HOST DELAY_MS KILOBITS_PER_S LOSS_PER_MILLE SEED: from now on its cable is a bad one
# ($SLOW_LINK, see slow_link.c); cable_mend HOST: a good one again. slow_link.HOST.log counts frames.
cable_spoil() {
    local i=${1#h}
    shift
    ip link add "s$i" type veth peer name "t$i"
    ip link set "p$i" nomaster
    ip link set "t$i" master switch up
    ip link set "s$i" up
    "$SLOW_LINK" "p$i" "s$i" "$@" >"slow_link.h$i.log" 2>&1 9>&- &
    echo $! >"pids/slow_link.h$i"
}

cable_mend() {
    local i=${1#h}
    kill "$(cat "pids/slow_link.$1")"
    wait "$(cat "pids/slow_link.$1")"
    ip link del "s$i"
    ip link set "p$i" master switch
}
