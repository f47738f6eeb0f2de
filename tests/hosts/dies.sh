#!/usr/bin/env bash
# A host of four dies: power off, or everything on it killed.
source "$(dirname "${BASH_SOURCE[0]}")/case.sh"
rig_enter "$@"
host_up 0 1 2 3
whole_run $(layout 4x1)

begin_run off $soon_alive
host_kill h2
end_run 100 off
[ $status != 0 ] || fail "exit status 0 without h2"
tell "h2 without power: mpirun ended with $status after $took s"
grep -q "on node h2" off.err || fail "the message does not name h2"
wait_until 100 all_quiet trimtab h0 h1 h3 || fail "ranks are left"
all_whole off
resume_on "h0:2 h1:1 h3:1" off
tell "resumed without h2: the same bits"
row "power of one of 4 hosts off, keep-alive 3 s + 2 x 1 s" 1 \
    "mpirun ends with an error that names the host; resumed on the other hosts to the same bits"

[ -n "$FULL" ] || exit 0
host_up 2
for what in rank daemon all; do
    begin_run killed.$what $soon_alive
    case $what in
    rank) host_signal KILL h2 trimtab ;;
    daemon) host_signal KILL h2 orted ;;
    all) host_signal KILL h2 ;;
    esac
    end_run 100 killed.$what
    [ $status != 0 ] || fail "exit status 0 after kill -9 on h2"
    tell "kill -9 of $what on h2: mpirun ended with $status after $took s"
    # Of a daemon that is gone mpirun may hear first from ssh, which it does not ask on which host.
    grep -q "node h2" killed.$what.err || { [ $what != rank ] &&
        grep -q "ORTE was unable to reliably start one or more daemons" killed.$what.err; } ||
        fail "the message does not name h2"
    wait_until 100 all_quiet trimtab h0 h1 h2 h3 || fail "ranks are left"
    all_whole killed.$what
    resume_on "$four" killed.$what
    tell "resumed on all hosts: the same bits"
done
row "kill -9 on one of 4 hosts: of the rank; of the daemon; of everything" "1 each" \
    "mpirun ends with an error, which names the host unless ssh reported its end first; resumed to the same bits"
