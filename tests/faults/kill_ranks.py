#!/usr/bin/env python3
"""Kills processes of a run with SIGKILL at random moments of its life, and at the calls that change
its directory. After every kill all others must be gone within 30 s, the dead rank must be named, what
was committed must be whole, and going on must end with the bits of a run that nothing happened to.

    tests/faults/kill_ranks.py [--full] [--seed N] [TRIMTAB]"""
import argparse
import os
import re
import signal
import sys
import time

from ranks import LAYOUTS, SOURCE, Failure, Lab, Table, expect, send

NAMED = r"process rank (\d+) with PID \d+ on node (\S+) exited on signal 9"


class Tally:
    def __init__(self):
        self.kills, self.slowest, self.when = 0, 0.0, {}

    def add(self, seconds, when):
        self.kills += 1
        self.slowest = max(self.slowest, seconds)
        self.when[when] = self.when.get(when, 0) + 1

    def told(self):
        when = ", ".join(f"{n} {what}" for what, n in sorted(self.when.items(), key=lambda x: -x[1]))
        return f"{when}; the slowest end took {self.slowest:.1f} s"


def moment(lab):
    """What the run was about when it was killed, as its directory tells."""
    run = lab.work / "run"
    if not (run / "generations").exists():
        return "before the run directory"
    if list(run.glob("**/*.tmp")) or list(run.glob("**/*.trash")) or list(run.glob("**/*.tmp.*")):
        return "in a checkpoint's making or removal"
    return "elsewhere"


def check_named(life, rank):
    """By the launcher; which of several it saw first is up to it."""
    named = re.search(NAMED, life.said())
    expect(named, f"nobody names rank {rank}:\n{life.said()}")
    expect(rank is None or int(named[1]) == rank, f"rank {named[1]} is named, not {rank}")


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
        seconds = life.wait_gone()
        if life.process.returncode == 0:  # it had done everything
            continue
        hit_here += 1
        tally.add(seconds, moment(lab))
        if what == "rank":
            check_named(life, hit)
        lab.check_goes_on(committed)
        lab.check_whole()
    committed = lab.committed()
    lab.finish(layout, "--resume=auto")
    lab.check_goes_on(committed)
    lab.check_same(layout)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("trimtab", nargs="?", default=SOURCE / "build/release/trimtab")
    asked = parser.parse_args()
    table = Table("tests/faults/kill_ranks.py" + " --full" * asked.full + f" --seed {asked.seed}")
    plan = [("rank", name, 24 if asked.full else 2) for name in LAYOUTS]
    if asked.full:
        plan += [("all", name, 6) for name in LAYOUTS] + [("mpirun", name, 6) for name in LAYOUTS]
    else:
        plan = plan[:2] + [("mpirun", "1x2", 1), ("rank", "cohort 2x1", 1)]
    with Lab(asked.trimtab, asked.seed) as lab:
        for what in ("rank", "all", "mpirun"):
            tally, layouts = Tally(), [(l, n) for w, l, n in plan if w == what]
            fault = {"rank": "kill -9 of a random rank at a random moment",
                     "all": "kill -9 of all ranks at a random moment",
                     "mpirun": "kill -9 of mpirun at a random moment"}[what]
            try:
                for layout, kills in layouts:
                    kill_at_random(lab, layout, what, kills, tally)
            except Failure as why:
                table.fail(fault, f"{layout}, kill {tally.kills}: {why}")
                continue
            if tally.kills:
                table.row(f"{fault} ({', '.join(l for l, _ in layouts)})", tally.kills,
                          f"every other process gone ({tally.told()})"
                          + ("; the dead rank named each time" if what == "rank" else "")
                          + "; every checkpoint whole; `--resume=auto` ends with the same bits")
    return 1 if table.failed else 0


if __name__ == "__main__":
    sys.exit(main())
