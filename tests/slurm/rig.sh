#!/usr/bin/env bash
# A whole Slurm cluster of this one machine, for as long as one command runs:
#
#     tests/slurm/rig.sh [--nodes N] [--cpus N] [--keep DIR] COMMAND [ARG ...]
#
# starts munged, slurmctld and N slurmd (nodes n1 ... nN, 4 of 4 CPUs each unless said), runs the
# command with SLURM_CONF and RIG_DIR (a private directory, work/ in it for the command's own files)
# in its environment, and ends with its exit code. --keep DIR: the daemons' logs and work/ are
# copied there when the command fails. Partitions: main (the default; jobs give way and are requeued,
# 20 s after the warning) and urgent (takes nodes from main).
#
# Everything lives in namespaces of its own (processes, mounts, network, host name): ports, sockets
# and /dev/shm are private, so that several rigs run at once, and when this script ends, however it
# ends, kill -9 included, the kernel ends every daemon, job and rank of it. Only the directory can
# be left by a kill -9; the next rig removes it.
#
# Exit 77, saying why, without root, Slurm, or the right to make namespaces.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/slurm/cluster.sh
source "$here/cluster.sh"

n_nodes=4 n_cpus=4 keep=
while [ $# -gt 0 ]; do
    case $1 in
    --nodes) n_nodes=$2; shift 2 ;;
    --cpus) n_cpus=$2; shift 2 ;;
    --keep) keep=$2; shift 2 ;;
    *) break ;;
    esac
done
[ $# -gt 0 ] || { echo "usage: rig.sh [--nodes N] [--cpus N] [--keep DIR] COMMAND [ARG ...]" >&2; exit 64; }

if [ -z "${RIG_INSIDE:-}" ]; then
    cluster_can_run || exit 77
    cluster_sweep
    RIG_DIR=$(mktemp -d "${TMPDIR:-/tmp}/trimtab-slurm.XXXXXX")
    chmod 755 "$RIG_DIR" # munged wants its socket's directory reachable
    exec 9>"$RIG_DIR/alive"
    flock 9 # held by this process and all inside; free once they are gone
    export RIG_DIR RIG_INSIDE=1
    child=
    trap 'rm -rf "$RIG_DIR"' EXIT
    # The namespaces end with their first process, and that with unshare, and that with this.
    trap '[ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true; exit 143' TERM
    trap '[ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true; exit 130' INT
    trap '[ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true; exit 129' HUP
    setpriv --pdeathsig KILL unshare --pid --fork --kill-child=KILL --mount --mount-proc --net --uts --ipc \
        "$here/rig.sh" --nodes "$n_nodes" --cpus "$n_cpus" --keep "$keep" "$@" &
    child=$!
    status=0
    wait "$child" || status=$?
    exit "$status"
fi

# --- Inside ---------------------------------------------------------------------------------------
unset RIG_INSIDE
mount -t tmpfs none /dev/shm
hostname rig
printf "127.0.0.1 localhost\n10.78.0.1 rig\n" >"$RIG_DIR/hosts"
mount --bind "$RIG_DIR/hosts" /etc/hosts
ip link set lo up
ip link add rig0 type veth peer name rig1 # Slurm wants an address besides the loopback one
ip addr add 10.78.0.1/24 dev rig0
ip link set rig0 up
ip link set rig1 up
mkdir "$RIG_DIR/work"
cluster_configure "$RIG_DIR" "$n_nodes" "$n_cpus"
cluster_start "$RIG_DIR" "$n_nodes"
cd "$RIG_DIR/work"
status=0
"$@" || status=$?
if [ $status != 0 ] && [ $status != 77 ] && [ -n "$keep" ]; then
    mkdir -p "$keep"
    cp -r "$RIG_DIR/log" "$RIG_DIR/work" "$keep/"
fi
exit $status
