#!/usr/bin/env python3
"""Disks that fail under whole runs: tests/faults/disk.py [--full] [--seed N] [--tries N] [--only PART]
[TRIMTAB]

Prints one line a fault in the form of docs/reliability.md; exits 1 when a promise is broken. --full
tries every place where the bounded form draws some. The shim (shim.c) makes single calls fail; what
calls inside one process do is tested in tests/fault."""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from lab import CONFIG, FENCED, FORMAT, IO, OK, Lab, newest_step
from rundirs import SOURCE, Failure, Table, checkpoints, newest_checkpoint, rows_of


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
    key = (ranks, job, kind, str(env))
    if key in lab.counts:
        return lab.counts[key]
    lab.clear()
    status, _, err = lab.run(ranks, "train", job, shim={"SHIM_CLASS": kind}, env=env)
    if status != OK:
        raise Failure(f"the shim alone: {status}: {err}")
    lab.counts[key] = lab.hits()[1]
    return lab.counts[key]


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
    n = lab.tries
    fail = lambda *a, **k: failing_calls(lab, table, full, *a, **k)
    fail("a write fails (EIO, ENOSPC, EDQUOT, ESTALE)", "job.cfg", "write", ERRORS, {OK, IO}, n)
    fail("all writes fail from one on (disk full)", "job.cfg", "write", ["ENOSPC", "EDQUOT"], {IO},
         n, extra={"SHIM_FROM": "1"})
    fail("fsync fails", "job.cfg", "sync", ERRORS, {OK, IO}, n)
    fail("close fails", "job.cfg", "close", ERRORS, {OK, IO}, n)
    fail("creating a file or opening it to write fails", "job.cfg", "open",
         ERRORS + ["EACCES", "EROFS", "EMFILE"], {OK, IO}, n)
    fail("mkdir, rename or unlink fails", "job.cfg", "name", ERRORS + ["EACCES", "EROFS"], {OK, IO},
         n)
    fail("a write takes half of its bytes", "job.cfg", "write", ["short"], {OK}, n)
    fail("a write or fsync is interrupted (EINTR)", "job.cfg", "all", ["EINTR"], {OK, IO}, n)
    fail("a write is lost, which fsync or close tells (NFS)", "job.cfg", "write", ["lost"],
         {OK, IO}, n)
    fail("a write stores zeros and reports success", "job.cfg", "write", ["zero"], {OK, IO}, n)
    romio = {"OMPI_MCA_io": "romio321"}
    fail("a write fails, MPI-IO being ROMIO", "job.cfg", "write", ERRORS, {OK, IO}, n, env=romio)
    fail("a write takes half of its bytes, ROMIO", "job.cfg", "write", ["short"], {OK}, n,
         env=romio)
    fail("fsync fails, ROMIO", "job.cfg", "sync", ERRORS, {OK, IO}, n, env=romio)
    fail("the run's directory vanishes, is replaced by an empty one, or by a link", "job.cfg", "all",
         ["away", "replaced", "link"], {OK, IO, FENCED}, n)
    fail("a write fails in a cohort", "cohort.cfg", "write", ERRORS, {OK, IO}, n)
    fail("mkdir, rename or unlink fails in a cohort", "cohort.cfg", "name", ERRORS, {OK, IO}, n)


# --- A small disk fills up --------------------------------------------------------------------------

PAGE = 4096


def fill(disk, free_pages):
    """Leaves so many pages free."""
    stat = os.statvfs(disk)
    with open(disk / "ballast", "wb") as ballast:
        ballast.write(b"x" * max(0, (stat.f_bavail - free_pages) * stat.f_frsize))


def fill_under_run(lab, ranks, free):
    lab.clear()
    fill(lab.disk, free)
    status, _, err = lab.run(ranks, "train", "job.cfg", "--set", "log.trace=true")
    lab.check_end(status, err, {OK, IO})
    (lab.disk / "ballast").unlink()
    lab.check_resume(ranks)
    return status


def fill_under_command(lab, free, name, *command):
    """A file or directory appears whole or not at all, and nothing else is left."""
    lab.clear()
    fill(lab.disk, free)
    status, _, err = lab.run(1, *command)
    if status not in (OK, IO) or (status == IO and f"disk/{name}" not in err):
        raise Failure(f"{command[0]} with {free} pages: exit status {status}: {err}")
    left = sorted(p.name for p in lab.disk.iterdir() if p.name != "ballast")
    # rows go where the user says as they come (it may be a pipe): what is there of them stays
    streams = name == "rows.jsonl" and status == IO
    if left not in ([[name], []] if streams else [[name] if status == OK else []]):
        raise Failure(f"{command[0]} with {free} pages, exit status {status}: left {left}")
    return status


def small_disk(lab, table, full):
    lab.disk = lab.work / "disk"
    lab.disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", lab.disk],
                      stderr=subprocess.DEVNULL).returncode:
        raise Failure("cannot mount a small disk")
    ranks = 2 if full else 1
    lab.reference(ranks)
    shutil.copytree(lab.kept_run(), lab.work / "trained")
    lab.move_run(lab.disk / "run")
    title = "a disk fills up under a run, at every page of what it writes"
    ended, pages = {}, sample(lab, full, range(0, 100), 2)
    for free in pages:
        try:
            status = fill_under_run(lab, ranks, free)
            ended[status] = ended.get(status, 0) + 1
        except Failure as why:
            table.fail(title, f"{free} pages: {why}")
    ends = ", ".join(f"{n} x exit {s}" for s, n in sorted(ended.items()))
    table.row(title, f"{len(pages)} sizes", f"{ends}; the last checkpoint is whole, resumed to the "
              "same bits")
    lab.clear()
    model = SOURCE / "jobs/quickstart/model"
    commands = {
        "out": ["export", "--adapter", "trained", "--model", model, "--format", "steerling", "--out",
                "disk/out", "--quiet"],
        "merged": ["export", "--adapter", "lora", "--model", model, "--format", "merged", "--out",
                   "disk/merged", "--quiet"],
        "rows.jsonl": ["eval", "job.cfg", "--adapter", "trained", "--quiet", "--out",
                       "disk/rows.jsonl"],
        "logits": ["eval", "job.cfg", "--adapter", "trained", "--quiet", "--dump-logits",
                   "disk/logits"],
        "train.jsonl": ["data", "listops", "--train", "disk/train.jsonl", "--n-train", "400"],
    }
    lora = ["train", "job.cfg", "--set", "method.form=none", "--set", "lora.targets=q,v", "--set",
            "lora.rank=2", "--set", f"run.dir=lora"]
    if lab.run(1, *lora)[0] != OK:
        del commands["merged"]
    title = "a disk fills up under export, eval --out, --dump-logits, data"
    tried, ended = 0, {}
    for name, command in commands.items():
        for free in sample(lab, full, range(0, 60), 1):
            try:
                status = fill_under_command(lab, free, name, *command)
                tried += 1
                ended[status] = ended.get(status, 0) + 1
            except Failure as why:
                table.fail(title, why)
    ends = ", ".join(f"{n} x exit {s}" for s, n in sorted(ended.items()))
    table.row(title, f"{tried} sizes", f"{ends}; what is there is whole, nothing else is left")


# --- Directories that may not be written to ---------------------------------------------------------

def unwritable(lab, table, full):
    title = "a read-only mount, a file or nothing readable where a directory should be"
    lab.reference(1)
    ways = {
        "read-only mount": lambda run: subprocess.run(
            f"mount --bind '{run}' '{run}' && mount -o remount,ro,bind '{run}'", shell=True,
            check=True),
        "checkpoints is a file": lambda run: (run / "checkpoints").write_text(""),
        "generations is a file": lambda run: (run / "generations").write_text(""),
        "lives is a file": lambda run: (run / "lives").write_text(""),
        "metrics.jsonl is a directory": lambda run: (run / "metrics.jsonl").mkdir(),
        "job.cfg is a directory": lambda run: (run / "job.cfg").mkdir(),
        "run is a file": lambda run: (run.rmdir(), run.write_text("")),
    }
    tried = 0
    for name, spoil in ways.items():
        lab.clear()
        lab.run_dir.mkdir()
        spoil(lab.run_dir)
        try:
            status, _, err = lab.run(2 if full else 1, "train", "job.cfg")
            lab.check_end(status, err, {IO})
            tried += 1
        except Failure as why:
            table.fail(title, f"{name}: {why}")
        if name == "read-only mount":
            subprocess.run(["umount", lab.run_dir], check=True)
        if lab.run_dir.is_file():
            lab.run_dir.unlink()
    table.row(title, f"{tried}", "exit 74 and the path, before a step is made")


# --- Bits that change on disk -----------------------------------------------------------------------

def inspect_states(lab):
    status, out, err = lab.run(1, "inspect", "run", "--json")
    try:
        return {c["name"]: c["state"] for c in json.loads(out)["checkpoints"]}
    except ValueError:
        raise Failure(f"inspect ends with {status}: {err}")


def spoil(lab, path, kind):
    """Changes a file; what it was."""
    data = bytearray(path.read_bytes())
    before = bytes(data)
    at = lab.random.randrange(len(data))
    if kind == "flip":
        data[at] ^= 1 << lab.random.randrange(8)
    elif kind == "cut":
        del data[at:]
    else:  # zeros: a block of the disk, in which something else was
        blocks = [b for b in range(0, len(data), 512) if any(data[b:b + 512])]
        b = lab.random.choice(blocks)
        end = min(b + 512, len(data))
        data[b:end] = bytes(end - b)
    path.write_bytes(data)
    return before


FILES = ["adapter.safetensors", "optimizer.safetensors", "state.json"]


def damage(lab, table, full):
    lab.clear()
    n_checkpoints, n_flips = 40, 1000 if full else 80
    status, _, err = lab.run(1, "train", "job.cfg", "--set", f"train.steps={n_checkpoints}", "--set",
                             "checkpoint.every=1", "--set", "checkpoint.keep=100")
    if status != OK:
        raise Failure(err)
    all_of_them = checkpoints(lab.run_dir)
    for kind, what, n in [("flip", "a bit of a checkpoint flips", n_flips),
                          ("cut", "a checkpoint's file is cut short", n_flips // 4),
                          ("zeros", "a block of a checkpoint's file reads as zeros", n_flips // 4)]:
        tried = 0
        while tried < n:
            before = {}
            for directory in all_of_them[:n - tried]:
                sizes = [(directory / f).stat().st_size for f in FILES]
                path = directory / lab.random.choices(FILES, sizes)[0]
                before[path] = spoil(lab, path, kind)
            states = inspect_states(lab)
            for path, data in before.items():
                tried += 1
                if states.get(path.parent.name) != "damaged":
                    table.fail(what, f"{path.parent.name}/{path.name}: {states.get(path.parent.name)}")
                path.write_bytes(data)
        if set(inspect_states(lab).values()) != {"whole"}:
            table.fail(what, "what was put back is not whole")
        table.row(what, f"{tried} places", "inspect names each of them, and nothing else")
    refuse_damage(lab, table, 30 if full else 4)


def refuse_damage(lab, table, n):
    """The commands that would use it."""
    title, newest, older = "resuming from, evaluating, exporting what is damaged", None, None
    newest, older = checkpoints(lab.run_dir)[-1], checkpoints(lab.run_dir)[0]
    same = ["--set", "train.steps=40", "--set", "checkpoint.every=1", "--set", "checkpoint.keep=100"]
    commands = [["train", "job.cfg", "--resume", *same], ["eval", "job.cfg", "--adapter", "run"],
                ["export", "--adapter", "run", "--model", SOURCE / "jobs/quickstart/model",
                 "--format", "steerling", "--out", "run/out"]]
    for i in range(n):
        command = commands[i % 3]
        path = newest / (FILES[0] if i % 3 else lab.random.choice(FILES))
        kind = lab.random.choice(["flip", "cut", "zeros", "swap"])
        if kind == "swap":
            before = path.read_bytes()
            path.write_bytes((older / path.name).read_bytes())
        else:
            before = spoil(lab, path, kind)
        status, _, err = lab.run(1, *command)
        if kind == "swap" and path.name == "state.json" and status == FORMAT:
            pass  # then it is the tensors that do not fit
        elif status != FORMAT or path.name not in err:
            table.fail(title, f"{command[0]}: {kind} of {path.name}: exit status {status}: {err}")
        path.write_bytes(before)
    table.row(title, f"{n}, files swapped between checkpoints among them",
              "exit 65, file and tensor named")


# --- What dead processes leave, and clocks ----------------------------------------------------------

def litter(run, n, ahead):
    """What n dead lives may leave behind, from times to come."""
    for i in range(n):
        (run / f"checkpoints/step-{900000 + i:010d}.g000001.tmp").mkdir()
        (run / f"checkpoints/step-{900000 + i:010d}.g000001.trash").mkdir()
        (run / f"checkpoints/step-{900000 + i:010d}.g000001.trash/.nfs{i:08x}").write_text("x")
        (run / f"generations/{2 + i:06d}").write_text(f"host gone, process {i}, time {ahead}.0\n")
        (run / f"lives/{2 + i:06d}.json").write_text("{")
        for name in ("job.cfg", "metrics.jsonl", "lives/x.json", "checkpoints/state.json"):
            (run / f"{name}.tmp.{i}.0").write_text("torn")
    for path in run.rglob("*"):
        os.utime(path, (ahead, ahead))


def leftovers(lab, table, full):
    title = "files of dead lives: claims, *.tmp, *.trash, lives, from 30 years ahead"
    n = 3000 if full else 300
    lab.reference(1)
    lab.clear()
    if lab.run(1, "train", "job.cfg", "--set", "train.steps=4")[0] not in (OK,):
        raise Failure("a plain run")
    lab.clear()
    stop = {"SHIM_CLASS": "name", "SHIM_KIND": "EIO", "SHIM_AT": 12}
    lab.run(1, "train", "job.cfg", shim=stop)
    litter(lab.run_dir, n, int(time.time()) + 30 * 365 * 86400)
    try:
        lab.check_resume(1)
        names = [p.name for p in (lab.run_dir / "checkpoints").iterdir()
                 if p.name.endswith((".tmp", ".trash"))]
        if names:
            raise Failure(f"left in checkpoints: {names[:3]}")
        table.row(title, f"{n} of each", "resumed to the same bits in the next generation; "
                  "unfinished checkpoints are gone")
    except Failure as why:
        table.fail(title, why)


def clocks(lab, table, full):
    title = "the clock jumps hours back and forth during a run"
    jumps = [7200, 86400 * 400, 10] if full else [7200]
    expected = lab.reference(2)
    for seconds in jumps:
        lab.clear()
        status, _, err = lab.run(2, "train", "job.cfg", "--set", "log.trace=true", shim={},
                                 env={"SHIM_CLOCK": str(seconds)})
        rows = [r for r in rows_of(lab.run_dir) if r["kind"] == "train"]
        elapsed = [r["elapsed_s"] for r in rows]
        if status != OK or lab.digest() != expected:
            table.fail(title, f"{seconds} s: exit status {status}, or another adapter: {err}")
        elif elapsed != sorted(elapsed) or not 0 <= elapsed[-1] < 3600:
            table.fail(title, f"{seconds} s: seconds elapsed {elapsed}")
        elif any(not 0 < r["tokens_per_s"] < 1e9 for r in rows):
            table.fail(title, f"{seconds} s: tokens a second {rows}")
    table.row(title, f"{len(jumps)} runs of 2 ranks", "the same bits; seconds and tokens/s are sane")


# --- Records ----------------------------------------------------------------------------------------

def records(lab, table, full):
    title = "a bad record deep in the data: stop and skip"
    good = (lab.work / "train.jsonl").read_text().splitlines()
    bad = ["{", "nonsense", "", '{"Source": 3}', '{"Source": "[MAX 1 2 ]"}', "[1]", "\x01", "{}" * 999,
           '{"Source": "' + "\udcff" + '", "Target": "1"}', "[" * 5000]
    tried = 0
    for i, text in enumerate(bad if full else bad[:7]):
        lines, at = list(good), 20 + i % 4
        lines[at - 1] = text
        (lab.work / "bad.jsonl").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
        for policy, expected in (("stop", FORMAT), ("skip", OK)):
            lab.clear()
            status, out, err = lab.run(1, "train", "job.cfg", "--set", "task.train=bad.jsonl", "--set",
                                       f"task.on_bad_record={policy}", "--set", "log.quiet=false")
            if text == "" and status == OK:  # an empty line is no record
                continue
            if status != expected or f"bad.jsonl:{at}" not in out + err:
                table.fail(title, f"{text[:20]!r}, {policy}: exit status {status}: {err[:300]}")
            tried += 1
    table.row(title, f"{tried}", "stop: exit 65, file and line; skip: told, file and line")
    data_that_changes(lab, table)


def data_that_changes(lab, table):
    """The file is read when a run begins: it goes on with what it read, and a resume is refused."""
    title = "the data file changes while a run reads it, in the middle of an epoch"
    expected = lab.reference(2)
    lab.clear()
    kept = (lab.work / "train.jsonl").read_bytes()
    process = lab.start(2, "train", "job.cfg", shim={"SHIM_CLASS": "write", "SHIM_KIND": "none",
                                                     "SHIM_WAIT": str(lab.work / "changed"),
                                                     "SHIM_AT": 12, "SHIM_RANK": 0})
    began = time.time()
    while not lab.hits()[0] and process.poll() is None and time.time() < began + 120:
        time.sleep(0.02)
    (lab.work / "train.jsonl").write_bytes(kept[:len(kept) // 2] + b"\x00 nonsense")
    (lab.work / "changed").write_text("")
    _, err = process.communicate()
    (lab.work / "changed").unlink()
    try:
        if process.returncode != OK or lab.digest() != expected:
            raise Failure(f"exit status {process.returncode}, or another adapter: {err}")
        shutil.rmtree(newest_checkpoint(lab.run_dir))
        status, _, err = lab.run(2, "train", "job.cfg", "--resume")
        lab.check_end(status, err, {FORMAT, CONFIG}, names=False)
        table.row(title, "1", "the life that reads it ends with the same bits; resuming on other data "
                  f"is refused: exit {status}")
    except Failure as why:
        table.fail(title, why)
    (lab.work / "train.jsonl").write_bytes(kept)


PARTS = {"calls": calls, "small_disk": small_disk, "unwritable": unwritable, "damage": damage,
         "leftovers": leftovers, "clocks": clocks, "records": records}
MOUNTS = ("small_disk", "unwritable")  # done where mounts are gone with the process


def may_mount():
    return subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL).returncode == 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tries", type=int, default=1, help="calls to fail of each kind")
    parser.add_argument("--only", choices=sorted(PARTS))
    parser.add_argument("--mounts", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("trimtab", nargs="?", default=SOURCE / "build/release/trimtab")
    asked = parser.parse_args()
    command = "tests/faults/disk.py" + " --full" * asked.full + f" --seed {asked.seed}"
    if asked.tries != 1:
        command += f" --tries {asked.tries}"
    if not asked.mounts and may_mount():
        os.execvp("unshare", ["unshare", "-m", sys.executable, *sys.argv, "--mounts"])
    table = Table(command)
    for name, part in PARTS.items():
        if asked.only not in (None, name):
            continue
        if name in MOUNTS and not asked.mounts:
            print(f"left out: {name}: no right to mount", flush=True)
            continue
        lab = Lab(asked.trimtab, asked.seed)
        lab.tries = asked.tries
        try:
            part(lab, table, asked.full)
        except Failure as why:
            table.fail(name, why)
        finally:
            lab.close()
    return 1 if table.failures else 0


if __name__ == "__main__":
    sys.exit(main())
