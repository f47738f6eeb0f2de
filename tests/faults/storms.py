#!/usr/bin/env python3
"""Sends storms of signals to ranks of a run, at random moments from the first one on. Every life ends
with 0 or 75, with a checkpoint if it made a step; the lives together end with the bits of a run that
nothing happened to.

    tests/faults/storms.py [--full] [--seed N] [TRIMTAB]"""
import argparse
import signal
import subprocess
import sys
import time

from ranks import INTERRUPTED, LAYOUTS, Lab, catches, expect, send, wait_until
from rundirs import SOURCE, Failure, Table, newest_checkpoint, step_of, train_rows

STOPS = [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGXCPU]
ALONE = {  # beside mpirun: what else may end a run; the status it ends with
    "SIGINT (Ctrl-C), once": ([signal.SIGINT], INTERRUPTED),
    "SIGINT twice": ([signal.SIGINT] * 2, -signal.SIGINT),
    "SIGPIPE": ([signal.SIGPIPE] * 3, 0),
}


def storm(lab, life, n_signals, spread_s):
    """So many signals to random ranks; how many hit. None comes before a rank has begun: until the
    program can say what it does with signals, they end it, and nothing is lost."""
    hit = 0
    for _ in range(n_signals):
        time.sleep(lab.random.uniform(0, 2 * spread_s / n_signals))
        ranks = [p for p in life.rank_processes().values() if catches(p, signal.SIGXCPU)]
        if life.is_over():
            break
        if ranks:
            hit += send(lab.random.choice(ranks), lab.random.choice(STOPS))
    return hit


def weather(lab, layout, wanted):
    """Life after life until so many signals have hit; (signals, lives that ended early)."""
    lab.reference(layout)
    lab.clear()
    hit = stopped = 0
    while hit < wanted:
        committed = lab.committed()
        life = lab.begin(layout, "--resume=auto")
        came = wait_until(60, lambda: life.is_over() or any(
            catches(p, signal.SIGXCPU) for p in life.rank_processes().values()))
        expect(came, f"does not begin\n{life.said()}")
        time.sleep(lab.random.uniform(0, lab.seconds[layout] / 2))
        hit += storm(lab, life, lab.random.choice([1, 2, 5, 30]), lab.random.uniform(0, 1))
        status = life.wait()
        life.wait_gone()
        expect(status in (0, INTERRUPTED), f"exit status {status}\n{life.said()}")
        lab.check_goes_on(committed)
        lab.check_whole()
        if status == 0:
            lab.check_same(layout)
            lab.clear()
        else:
            stopped += 1
            expect("trimtab: stopped on request" in life.said(), life.said())
            check_kept(lab)
    lab.finish(layout, "--resume=auto")
    lab.check_same(layout)
    return hit, stopped


def check_kept(lab):
    """No step that was made is lost."""
    for path in (lab.work / "run").glob("**/metrics.jsonl"):
        made = max((row["step"] for row in train_rows(path.parent)), default=0)
        newest = newest_checkpoint(path.parent)
        expect(made == (step_of(newest) if newest else 0),
               f"{path.parent.name}: made step {made}, kept {newest}")


# Seconds of steps: a signal must find the run at work.
LONG = ("train.steps=400", "checkpoint.every=100", "eval.every=0")


def alone(lab, signals, status):
    """One process without mpirun."""
    lab.clear()
    life = lab.begin("1x1", launcher=["env"], sets=LONG)
    there = wait_until(60, lambda: (lab.work / "run/metrics.jsonl").exists() or life.is_over())
    expect(there and not life.is_over(), f"does not begin\n{life.said()}")
    for number in signals:
        send(life.process.pid, number)
        time.sleep(0.05)
    ended = life.wait()
    expect(ended == status, f"exit status {ended}, expected {status}\n{life.said()}")
    lab.finish("1x1", "--resume=auto", launcher=["env"], sets=LONG)
    lab.check_same("1x1")


def unread(lab):
    """Whoever read the output goes away, while the run is told to speak of every step."""
    lab.clear()
    reader = subprocess.Popen(["head", "-n", "1"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    sets = [word for one in LONG for word in ("--set", one)]
    process = subprocess.Popen([lab.trimtab, "train", "job.cfg", *sets], cwd=lab.work, stdout=reader.stdin,
                               stderr=subprocess.PIPE, text=True)
    reader.stdin.close()
    _, told = process.communicate(timeout=300)
    reader.wait()
    expect(process.returncode == 74 and "standard output: cannot write" in told,
           f"exit status {process.returncode}: {told}")
    lab.check_same("1x1")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("trimtab", nargs="?", default=SOURCE / "build/release/trimtab")
    asked = parser.parse_args()
    table = Table("tests/faults/storms.py" + " --full" * asked.full + f" --seed {asked.seed}")
    plan = [(l, 100) for l in LAYOUTS if l != "1x1"] if asked.full else [("2x1", 10), ("cohort 1x2", 10)]
    with Lab(asked.trimtab, asked.seed) as lab:
        fault, hit, stopped = "storms of SIGTERM, USR1, USR2, HUP, XCPU at random ranks and moments", 0, 0
        try:
            for layout, wanted in plan:
                one = weather(lab, layout, wanted)
                hit, stopped = hit + one[0], stopped + one[1]
            table.row(f"{fault} ({', '.join(l for l, _ in plan)})", hit,
                      f"{stopped} lives ended with 75 and their last step kept, the others with 0; "
                      "`--resume=auto` ends with the same bits")
        except Failure as why:
            table.fail(fault, f"{layout}: {why}")
        for fault, (signals, status) in ALONE.items():
            try:
                lab.reference("1x1", launcher=["env"], sets=LONG)
                alone(lab, signals, status)
                end = "ends by it" if status < 0 else f"ends with {status}"
                table.row(f"{fault} to a run without mpirun", 1,
                          f"{end}; `--resume=auto` ends with the same bits")
            except Failure as why:
                table.fail(fault, why)
        fault = "standard output is closed by its reader"
        try:
            unread(lab)
            table.row(fault, 1, "trains to the end, same bits; ends with 74 and says so")
        except Failure as why:
            table.fail(fault, why)
    return 1 if table.failures else 0


if __name__ == "__main__":
    sys.exit(main())
