#!/usr/bin/env python3
"""Kills processes of a run with SIGKILL at random moments of its life, and at the calls that change
its directory. After every kill all others must be gone within 30 s, the dead rank must be named, what
was committed must be whole, and going on must end with the bits of a run that nothing happened to.

    tests/faults/kill_ranks.py [--full] [--seed N] [--only rank|all|mpirun|call] [TRIMTAB]"""
import argparse
import os
import re
import signal
import sys
import time

from ranks import HANGS_S, LAYOUTS, Lab, Shim, expect, send, wait_until
from rundirs import SOURCE, Failure, Table

NAMED = r"process rank (\d+) with PID \d+ on node (\S+) exited on signal 9"


KILLS = {"rank": 24, "all": 6, "mpirun": 6, "call": 24}  # of each layout


class Tally:
    def __init__(self):
        self.kills, self.slowest, self.when = 0, 0.0, {}
        self.hung = 0  # mpirun
        self.named = 0

    def add(self, seconds, when):
        self.kills += 1
        self.slowest = max(self.slowest, seconds)
        self.when[when] = self.when.get(when, 0) + 1

    def told(self):
        when = ", ".join(f"{n} {what}" for what, n in sorted(self.when.items(), key=lambda x: -x[1]))
        hung = f"; mpirun itself hung {self.hung} times, no rank left" if self.hung else ""
        return f"{when}; the slowest end took {self.slowest:.1f} s{hung}"


def moment(lab):
    """What the run was about when it was killed, as its directory tells."""
    run = lab.work / "run"
    if not (run / "generations").exists():
        return "before the run directory"
    if list(run.glob("**/*.tmp")) or list(run.glob("**/*.trash")) or list(run.glob("**/*.tmp.*")):
        return "in a checkpoint's making or removal"
    return "elsewhere"


def check_named(life, rank, tally):
    """By the launcher, which seldom (1 of 100) only says that some process ended."""
    named = re.search(NAMED, life.said())
    if named:
        expect(int(named[1]) == rank, f"rank {named[1]} is named, not {rank}")
        tally.named += 1
    else:
        expect("1 process returned\na non-zero exit code" in life.said(),
               f"nobody says that a rank died:\n{life.said()}")


def kill_one(lab, life, what, after_s):
    """Kills a rank (all, mpirun); false: the life was over before."""
    began = time.monotonic()
    while time.monotonic() - began < after_s and not life.is_over():
        time.sleep(0.002)
    if life.is_over():
        return None
    if what == "mpirun":
        return "mpirun" if send(life.process.pid, signal.SIGKILL) else None
    ranks = life.rank_processes()
    if not ranks:
        return None
    if what == "all":
        return "all" if sum(send(pid, signal.SIGKILL) for pid in ranks.values()) else None
    rank = lab.random.choice(sorted(ranks))
    return rank if send(ranks[rank], signal.SIGKILL) else None


def end_of(life, hit, tally):
    """Seconds until all is gone. mpirun 4.1 itself may hang when all ranks die while they join MPI:
    it then waits for a connection of a process that it knows is dead."""
    try:
        return life.wait_gone()
    except Failure:
        if hit != "all" or life.rank_processes() or "PMIX ERROR: UNREACHABLE" not in life.said():
            raise
        life.end()
        tally.hung += 1
        return 0.0


def kill_at_random(lab, layout, what, kills, tally):
    """Life after life of one run after another, until so many kills have hit."""
    lab.reference(layout)
    lab.clear()
    hit_here, misses = 0, 0
    while hit_here < kills:
        committed = lab.committed()
        life = lab.begin(layout, "--resume=auto")
        hit = kill_one(lab, life, what, lab.random.uniform(0, lab.seconds[layout]))
        if hit is None:
            expect(life.wait() == 0, f"exit status {life.process.returncode}\n{life.said()}")
            lab.check_same(layout)
            lab.clear()
            misses += 1
            expect(misses < 10 + 5 * kills, "no kill hits")
            continue
        seconds = end_of(life, hit, tally)
        if life.process.returncode == 0:  # it had done everything
            continue
        hit_here += 1
        tally.add(seconds, moment(lab))
        if what == "rank":
            check_named(life, hit, tally)
        lab.check_goes_on(committed)
        lab.check_whole()
    committed = lab.committed()
    lab.finish(layout, "--resume=auto")
    lab.check_goes_on(committed)
    lab.check_same(layout)


def kill_at_calls(lab, layout, shim, kinds, kills, tally):
    """As at random moments, but where it hurts: mostly rank 0, which commits."""
    lab.reference(layout)
    places = [(0, kind) for kind in kinds] + [(1, "write")]
    n_calls = {place: shim.count(layout, *place) for place in places}
    hit_here = 0
    while hit_here < kills:
        rank, kind = place = lab.random.choice([p for p in places if n_calls[p]])
        committed = lab.committed()
        shim.log.unlink(missing_ok=True)
        life = lab.begin(layout, "--resume=auto", env=shim.environment(
            "kill", kind, lab.random.randint(1, n_calls[place]), rank))
        came = wait_until(HANGS_S, lambda: shim.lines("hit") or life.is_over())
        expect(came, f"neither comes to the call nor ends\n{life.said()}")
        if not shim.lines("hit"):  # a life with fewer calls has come to the end
            expect(life.wait() == 0, f"exit status {life.process.returncode}\n{life.said()}")
            lab.check_same(layout)
            lab.clear()
            continue
        seconds = life.wait_gone()
        hit_here += 1
        _, _, _, function, path = shim.lines("hit")[0]
        tally.add(seconds, f"{function} of {kind_of(path)}")
        check_named(life, rank, tally)
        lab.check_goes_on(committed)
        lab.check_whole()
    lab.finish(layout, "--resume=auto")
    lab.check_same(layout)


def kind_of(path):
    for word in ("adapter.safetensors", "optimizer.safetensors", "state.json", "metrics.jsonl",
                 "cohort.json", "job.cfg", "generations", "lives"):
        if word in path:
            return word
    return "checkpoints" if "checkpoints" in path else "the rest"


def lose_launcher(lab):
    """A launcher that dies, of a rank that does not hear of it from MPI (alone it joins nobody)."""
    lab.clear()
    life = lab.begin("1x1", sets=["train.steps=100000000"], env={"PMI_RANK": "0"},
                     launcher=["sh", "-c", '"$@" & wait', "launcher"])
    began = wait_until(HANGS_S, lambda: (lab.work / "run/metrics.jsonl").exists() or life.is_over())
    expect(began and not life.is_over(), f"does not begin\n{life.said()}")
    send(life.process.pid, signal.SIGKILL)
    seconds = life.wait_gone()
    expect("rank 0: the launcher (process " in life.said(), life.said())
    lab.check_whole()
    return seconds


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", choices=list(KILLS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("trimtab", nargs="?", default=SOURCE / "build/release/trimtab")
    asked = parser.parse_args()
    table = Table("tests/faults/kill_ranks.py" + " --full" * asked.full + f" --seed {asked.seed}")
    if asked.full:
        several = [name for name in LAYOUTS if name != "1x1"]
        plan = [(what, name, n) for what, n in KILLS.items() for name in several]
    else:
        plan = [("rank", "2x1", 2), ("rank", "1x2", 2), ("mpirun", "1x2", 1), ("call", "2x1", 2)]
    with Lab(asked.trimtab, asked.seed) as lab:
        shim = Shim(lab)
        for what in [asked.only] if asked.only else KILLS:
            tally, layouts = Tally(), [(l, n) for w, l, n in plan if w == what]
            fault = {"rank": "kill -9 of a random rank at a random moment",
                     "all": "kill -9 of all ranks at a random moment",
                     "mpirun": "kill -9 of mpirun at a random moment",
                     "call": "kill -9 of a rank at a random call that changes its run directory"}[what]
            try:
                for layout, kills in layouts:
                    if what == "call":
                        kinds = ("name", "sync", "open", "write") if asked.full else ("name", "write")
                        kill_at_calls(lab, layout, shim, kinds, kills, tally)
                    else:
                        kill_at_random(lab, layout, what, kills, tally)
            except Failure as why:
                table.fail(fault, f"{layout}, kill {tally.kills}: {why}")
                continue
            names = what in ("rank", "call")
            if names and tally.named < 0.95 * tally.kills:
                table.fail(fault, f"the dead rank was named {tally.named} times of {tally.kills}")
            elif tally.kills:
                named = "each time" if tally.named == tally.kills else f"{tally.named} times"
                table.row(f"{fault} ({', '.join(l for l, _ in layouts)})", tally.kills,
                          f"every other process gone ({tally.told()})"
                          + (f"; the dead rank named {named}" if names else "")
                          + "; every checkpoint whole; `--resume=auto` ends with the same bits")
        if asked.only is None:
            fault = "kill -9 of a launcher whose rank MPI does not tell"
            try:
                seconds = lose_launcher(lab)
                table.row(fault, 1, f"the rank says so and is gone after {seconds:.0f} s")
            except Failure as why:
                table.fail(fault, why)
    return 1 if table.failures else 0


if __name__ == "__main__":
    sys.exit(main())
