#!/usr/bin/env python3
"""Disks that fail under whole runs: tests/faults/disk.py [--full] [--seed N] [--only WORD] [TRIMTAB]

Prints one line a fault in the form of docs/reliability.md; exits 1 when a promise is broken. --full
tries every place where the bounded form draws some. The shim (shim.c) makes single calls fail; what
calls inside one process do is tested in tests/fault."""
import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from lab import (CONFIG, FENCED, FORMAT, IO, OK, SOURCE, Failure, Lab, Table, checkpoints_of,
                 newest_of, newest_step, rows_of)


def sample(lab, full, items, n):
    return list(items) if full or len(items) <= n else sorted(lab.random.sample(list(items), n))


# --- One call fails ---------------------------------------------------------------------------------

def one_fault(lab, ranks, job, shim, allowed, env=None):
    """Returns (status, function that was hit)."""
    lab.clear()
    status, _, err = lab.run(ranks, "train", job, shim=shim, env=env)
    hits, _ = lab.hits()
    message = lab.check_end(status, err, allowed)
    if not hits and status != OK:
        raise Failure(f"nothing was hit, and yet: {message}")
    away = lab.run_dir.with_name("run.away")
    if away.exists():
        if lab.run_dir.is_symlink():
            lab.run_dir.unlink()
        elif lab.run_dir.exists():
            if any(p.is_file() for p in lab.run_dir.glob("**/checkpoints/step-*/*")) and status == OK:
                raise Failure("a run went on in a directory that is not its own")
            shutil.rmtree(lab.run_dir)
        away.rename(lab.run_dir)
    lab.check_resume(ranks, job)
    return status, hits[0].split()[3] if hits else "-"


def count_calls(lab, ranks, job, kind, env=None):
    """{rank: calls of the class} of a run in which nothing fails."""
    lab.clear()
    status, _, err = lab.run(ranks, "train", job, shim={"SHIM_CLASS": kind}, env=env)
    if status != OK:
        raise Failure(f"the shim alone: {status}: {err}")
    return lab.hits()[1]


def failing_calls(lab, table, full, title, job, kind, errors, allowed, n, env=None, extra=None):
    ranks, tried, ended, functions = 2, 0, {}, set()
    try:
        lab.reference(ranks, job)
        calls = count_calls(lab, ranks, job, kind, env)
    except Failure as why:
        return table.fail(title, why)
    places = [(r, i) for r, count in sorted(calls.items()) for i in range(1, count + 1)]
    for rank, at in sample(lab, full, places, n):
        error = lab.random.choice(errors)
        shim = {"SHIM_CLASS": kind, "SHIM_KIND": error, "SHIM_AT": at, "SHIM_RANK": rank,
                **(extra or {})}
        try:
            status, function = one_fault(lab, ranks, job, shim, allowed, env)
        except Failure as why:
            table.fail(title, f"{' '.join(f'{k}={v}' for k, v in shim.items())}: {why}")
            continue
        tried += 1
        ended[status] = ended.get(status, 0) + 1
        functions.add(function)
    ends = ", ".join(f"{n} x exit {s}" for s, n in sorted(ended.items()))
    table.row(title, f"{tried} of {len(places)} calls", f"{ends}; the last checkpoint is whole, "
              "resumed to the same bits")


ERRORS = ["EIO", "ENOSPC", "EDQUOT", "ESTALE"]


def calls(lab, table, full):
    n = 4
    fail = lambda *a, **k: failing_calls(lab, table, full, *a, **k)
    fail("a write fails (EIO, ENOSPC, EDQUOT, ESTALE)", "job.cfg", "write", ERRORS, {OK, IO}, n)
    fail("all writes fail from one on (disk full)", "job.cfg", "write", ["ENOSPC", "EDQUOT"], {IO},
         n, extra={"SHIM_FROM": "1"})
    fail("fsync fails", "job.cfg", "sync", ERRORS, {OK, IO}, n)
    fail("close fails", "job.cfg", "close", ERRORS, {OK, IO}, n)
    fail("create or open for writing fails", "job.cfg", "open", ERRORS + ["EACCES", "EROFS"],
         {OK, IO}, n)
    fail("mkdir, rename or unlink fails", "job.cfg", "name", ERRORS + ["EACCES", "EROFS"], {OK, IO},
         n)
    fail("a write takes half of its bytes", "job.cfg", "write", ["short"], {OK, IO}, n)
    fail("a write is interrupted (EINTR)", "job.cfg", "write", ["EINTR"], {OK, IO}, 3)
    fail("fsync is interrupted (EINTR)", "job.cfg", "sync", ["EINTR"], {OK, IO}, 2)
    fail("a write is lost, which fsync or close tells (NFS)", "job.cfg", "write", ["lost"],
         {OK, IO}, n)
    fail("a write stores zeros and reports success", "job.cfg", "write", ["zero"], {OK, IO}, n)
    romio = {"OMPI_MCA_io": "romio321"}
    fail("a write fails under ROMIO", "job.cfg", "write", ERRORS, {OK, IO}, 3, env=romio)
    fail("a write takes half of its bytes under ROMIO", "job.cfg", "write", ["short"], {OK, IO}, 2,
         env=romio)
    fail("fsync or close fails under ROMIO", "job.cfg", "sync", ERRORS, {OK, IO}, 2, env=romio)
    fail("the run's directory vanishes, is replaced by an empty one, or by a link", "job.cfg", "all",
         ["away", "replaced", "link"], {OK, IO, FENCED}, 6)
    fail("a write fails in a cohort", "cohort.cfg", "write", ERRORS, {OK, IO}, 3)
    fail("mkdir, rename or unlink fails in a cohort", "cohort.cfg", "name", ERRORS, {OK, IO}, 2)


PARTS = {"calls": calls}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=sorted(PARTS))
    parser.add_argument("trimtab", nargs="?", default=SOURCE / "build/release/trimtab")
    asked = parser.parse_args()
    command = "tests/faults/disk.py" + " --full" * asked.full + f" --seed {asked.seed}"
    table = Table(command)
    for name, part in PARTS.items():
        if asked.only in (None, name):
            lab = Lab(asked.trimtab, asked.seed)
            try:
                part(lab, table, asked.full)
            except Failure as why:
                table.fail(name, why)
            finally:
                lab.close()
    return 1 if table.failures else 0


if __name__ == "__main__":
    sys.exit(main())
