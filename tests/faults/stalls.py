#!/usr/bin/env python3
"""Stops processes of a run with SIGSTOP. For less than guard.stall seconds: the run goes on, to the
same bits. For longer: the run ends with 79 and a report that names the rank, which is gone with all
others, and going on ends with the same bits. All of them at once, as when a machine is suspended: the
run goes on.

    tests/faults/stalls.py [--full] [--seed N] [TRIMTAB]"""
import argparse
import re
import signal
import sys
import time

from ranks import LAYOUTS, STALLED, Lab, Shim, expect, send, wait_until
from rundirs import SOURCE, Failure, Table, train_rows

STALL_S = 3
GIVEN_UP_S = 150  # guard.stall, the time of grace, and a machine with other work
SETS = (f"guard.stall={STALL_S}",)


def newest_step(run):
    return max((row["step"] for row in train_rows(run)), default=0)


def steps_of(lab):
    """Of a run, or of all members."""
    return max((newest_step(p.parent) for p in (lab.work / "run").glob("**/metrics.jsonl")), default=0)


def begin_and_reach(lab, layout, step, *more):
    lab.clear()
    life = lab.begin(layout, *more, sets=SETS)
    there = wait_until(120, lambda: steps_of(lab) >= step or life.is_over())
    expect(there and not life.is_over(), f"does not come to step {step}\n{life.said()}")
    return life


def stop(life, ranks):
    processes = life.rank_processes()
    return [pid for rank, pid in processes.items() if rank in ranks and send(pid, signal.SIGSTOP)]


def wakes_up(lab, layout, ranks, seconds, step):
    """Stopped for so long, it goes on."""
    life = begin_and_reach(lab, layout, step)
    stopped = stop(life, ranks)
    time.sleep(seconds)
    for pid in stopped:
        send(pid, signal.SIGCONT)
    expect(len(stopped) == len(ranks), "the run was over before it was stopped")
    expect(life.wait() == 0, f"exit status {life.process.returncode}\n{life.said()}")
    lab.check_same(layout)


def stays_stopped(lab, layout, rank, step):
    """The seconds until it was given up."""
    life = begin_and_reach(lab, layout, step)
    pid = life.rank_processes()[rank]
    began = time.monotonic()
    expect(stop(life, [rank]) == [pid], "the run was over before it was stopped")
    status = life.wait(GIVEN_UP_S)
    took = time.monotonic() - began
    life.wait_gone()
    said = life.said()
    expect(status == STALLED, f"exit status {status}, expected {STALLED}\n{said}")
    reports = re.findall(r"^trimtab: error: nothing has moved for \d+ s: (.*)", said, re.M)
    expect(len(reports) == 1, f"{len(reports)} reports, expected 1\n{said}")
    expect(re.match(rf"rank {rank} \(host \S+, process {pid}, stage \d+ of replica \d+\)", reports[0]),
           f"rank {rank}, process {pid}, is not named: {reports[0]}")
    for other in range(life.ranks):
        expect(re.search(rf"^  rank {other} \(host .*step \d+|^  rank {other} .*nothing heard", said,
                         re.M), f"no state of rank {other}\n{said}")
    kept = list((lab.work / "run" / "stalls").glob("g*/report.txt"))
    expect(len(kept) == 1 and reports[0] in kept[0].read_text(), "no report in the run's directory")
    lab.check_whole()
    committed = lab.committed()
    lab.finish(layout, "--resume=auto", sets=SETS)
    lab.check_goes_on(committed)
    lab.check_same(layout)
    return took


# --- What else stands still ------------------------------------------------------------------------


def ends_with(life, pattern, seconds=GIVEN_UP_S):
    """All are gone, and this was said, whatever else was."""
    status = life.wait(seconds)
    life.wait_gone()
    expect(status == STALLED, f"exit status {status}, expected {STALLED}\n{life.said()}")
    expect(re.search(pattern, life.said()), f"nobody says {pattern}\n{life.said()}")


def goes_on(lab, layout):
    lab.finish(layout, "--resume=auto")
    lab.check_same(layout)


def stops_early(lab, layout, what, after, *more):
    """Rank 1, once this is said: perhaps before there is a run directory, so that nobody can be asked;
    the wait has an end all the same."""
    lab.clear()
    life = lab.begin(layout, sets=SETS + more, what=what)
    there = wait_until(60, lambda: life.is_over() or after in life.said())
    expect(there and not life.is_over() and stop(life, [1]), f"does not begin\n{life.said()}")
    ends_with(life, r"error: nothing has moved for \d+ s in rank 0 .*: wait for .*; a rank that it waits "
              r"for is stopped, dead, cut off, or hangs|rank 1 \(.*stopped, dead or cut off")


def hangs_in_a_call(lab, layout, shim, kind, rank):
    """A disk that does not come back, for one call: the others' state and its own can be written."""
    at = lab.random.randint(1, shim.count(layout, rank, kind))
    lab.clear()
    ends_with(lab.begin(layout, sets=SETS, env=shim.environment("hang", kind, at, rank)),
              rf"error: nothing has moved for \d+ s: rank {rank} \(.*: hangs in: ")
    lab.check_whole()
    goes_on(lab, layout)


def directory_hangs(lab, layout, shim, rank):
    """For all calls from one on: of one rank, or of all (rank None)."""
    at = lab.random.randint(1, shim.count(layout, 0, "write"))
    lab.clear()
    ends_with(lab.begin(layout, sets=SETS,
                        env=shim.environment("hang", "all", at, rank, from_then_on=True)),
              r"error: nothing has moved for \d+ s in rank \d+ .*(its run directory does not answer|it hangs)"
              rf"|error: nothing has moved for \d+ s: rank {rank} \(")
    lab.check_whole()
    goes_on(lab, layout)


def others(lab, table, full):
    shim = Shim(lab)
    lab.data("many.jsonl", 1000)
    n = 3 if full else 1
    for layout in ["2x1", "1x2", "cohort 2x1"] if full else ["2x1"]:
        lab.reference(layout)
        tries = [
            (f"a rank is stopped for good while the run starts, {layout}", "all end with 79 and say "
             "for whom they wait", lambda: stops_early(lab, layout, "train", "held-out data")),
            (f"a write, sync or rename of rank 0 never returns, {layout}", "all end with 79; the "
             "report names rank and operation; resumed to the same bits",
             lambda: hangs_in_a_call(lab, layout, shim, lab.random.choice(["write", "sync", "name"]),
                                     0)),
            (f"the run directory stops to answer, for one rank, {layout}", "all end with 79, naming "
             "the rank or the directory; resumed to the same bits",
             lambda: directory_hangs(lab, layout, shim, 0)),
            (f"the run directory stops to answer, for all, {layout}", "all end with 79, naming the "
             "directory; resumed to the same bits", lambda: directory_hangs(lab, layout, shim, None)),
        ]
        if not layout.startswith("cohort"):
            tries.append((f"a rank of `trimtab eval` is stopped for good, {layout}", "all end with 79 "
                          "and say for whom they wait",
                          lambda: stops_early(lab, layout, "eval", "held-out data",
                                              "task.eval=many.jsonl", "eval.generate=true")))
        for fault, what, attempt in tries if full else tries[1:3]:
            try:
                for _ in range(n):
                    attempt()
                table.row(fault, n, what)
            except Failure as why:
                table.fail(fault, why)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("trimtab", nargs="?", default=SOURCE / "build/release/trimtab")
    asked = parser.parse_args()
    table = Table("tests/faults/stalls.py" + " --full" * asked.full + f" --seed {asked.seed}")
    layouts = [l for l in LAYOUTS if l != "1x1"] if asked.full else ["2x1"]
    with Lab(asked.trimtab, asked.seed, steps=120) as lab:
        for layout in layouts:
            n_ranks = LAYOUTS[layout][0]
            step = lambda: lab.random.randrange(1, 12)
            fault = f"a rank is stopped (SIGSTOP), {layout}"
            try:
                lab.reference(layout, sets=SETS)
                ranks = range(n_ranks) if asked.full else [lab.random.randrange(n_ranks)]
                took = [stays_stopped(lab, layout, rank, step()) for rank in ranks]
                table.row(f"{fault}, for good, `guard.stall = {STALL_S}`", len(took),
                          "all end with 79 after "
                          f"{'' if len(took) == 1 else f'{min(took):.0f} to '}{max(took):.0f} s; one "
                          "report names the stopped rank and lists all; no process left, the "
                          "stopped one neither; resumed to the same bits")
                for rank in ranks:
                    wakes_up(lab, layout, [rank], STALL_S / 2, step())
                table.row(f"{fault}, for half of `guard.stall`", len(took),
                          "goes on to the same bits")
                wakes_up(lab, layout, range(n_ranks), 3 * STALL_S, step())
                table.row(f"all ranks are stopped for three times `guard.stall` and woken, {layout}", 1,
                          "goes on to the same bits: a machine that slept is held against nobody")
            except Failure as why:
                table.fail(fault, why)
    with Lab(asked.trimtab, asked.seed) as lab:
        others(lab, table, asked.full)
    return 1 if table.failures else 0


if __name__ == "__main__":
    sys.exit(main())
