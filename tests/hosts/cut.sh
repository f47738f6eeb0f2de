#!/usr/bin/env bash
# The link of one host of four is cut: for a moment, and for good.
source "$(dirname "${BASH_SOURCE[0]}")/case.sh"
rig_enter "$@"
host_up 0 1 2 3
whole_run $(layout 2x2)

moments="2"
[ -z "$FULL" ] || moments="2 8 20"
for seconds in $moments; do
    begin_run moment.$seconds
    cable_pull h2
    at=$(last_step moment.$seconds)
    sleep $seconds
    [ "$(last_step moment.$seconds)" -le $((at + 2)) ] || fail "steps without the link of h2"
    cable_plug h2
    end_run 200 moment.$seconds
    [ $status = 0 ] || fail "exit status $status after $seconds s without a link"
    same_adapter whole moment.$seconds $STEPS || fail "the result differs after a cut link"
    tell "link cut for $seconds s: went on to the same bits, $took s after it was back"
done
row "link of one of 4 hosts cut for ${moments// /, } s" "$(wc -w <<<"$moments")" \
    "the run goes on when the link is back; same bits as undisturbed"

for host in h2 ${FULL:+h0 h1 h3}; do
    begin_run cut.$host $soon_alive
    cable_pull $host
    end_run 100 cut.$host
    [ $status != 0 ] || fail "exit status 0 without $host"
    tell "link of $host cut for good: mpirun ended with $status after $took s"
    [ $host = h0 ] || grep -q "on node $host" cut.$host.err || fail "the message does not name $host"
    wait_until 100 all_quiet trimtab h0 h1 h2 h3 || fail "ranks are left"
    wait_until 100 all_quiet orted h1 h2 h3 || fail "daemons are left"
    tell "no rank is left, on $host neither"
    all_whole cut.$host
    if [ $host = h0 ]; then cable_plug h0; fi # mpirun starts there
    resume_on "h0:2 $(for h in h1 h2 h3; do [ $h = $host ] || echo $h:1; done)" cut.$host
    tell "resumed on the hosts that remain: the same bits"
    [ $host = h0 ] || cable_plug $host
done
row "link of one of 4 hosts cut for good, keep-alive 3 s + 2 x 1 s" "$([ -z "$FULL" ] && echo 1 || echo 4)" \
    "mpirun ends with an error that names the host; no rank left anywhere, not on the cut-off host either; resumed on the other hosts to the same bits"

[ -n "$FULL" ] || exit 0
# Without keep-alive, and with a signal on its way to the cut-off host, for which keep-alive does not
# help (nobody acknowledges it): the ranks themselves find out, on both sides. mpirun ends when the
# kernel gives that signal up: after 15 minutes and more, here after some 25 s.
for host in h0 h1 h2 h3; do on $host sysctl -qw net.ipv4.tcp_retries2=6; done
sets="$sets --set guard.stall=5"
begin_run stalled
cable_pull h2
host_signal USR1 h0 mpirun
began=$SECONDS
wait_until 200 all_quiet trimtab h0 h1 h2 h3 || fail "ranks are left"
gone=$((SECONDS - began))
tell "link of h2 cut for good, no keep-alive, guard.stall = 5: no rank is left after $gone s, on h2 neither"
grep -q "rank 2 (host h2" stalled.err || fail "the message does not name h2"
end_run 300 stalled
[ $status != 0 ] || fail "exit status 0 without h2"
tell "mpirun ended with $status $took s later"
all_whole stalled
resume_on "h0:2 h1:1 h3:1" stalled
tell "resumed on the hosts that remain: the same bits"
row "the same without keep-alive, a signal on its way to the host; guard.stall = 5, net.ipv4.tcp_retries2 = 6" 1 \
    "all ranks end by themselves after $gone s, on the cut-off host too; mpirun follows with $status after $took s more; resumed on the other hosts to the same bits"
