"""Runs of trimtab under mpirun whose processes tests kill, stop and send signals to: a directory with
data and jobs on the shipped model, the processes of one run, and what must hold after each."""
import hashlib
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from rundirs import (SOURCE, Failure, build_shim, checkpoints, make_data, newest_checkpoint, newest_life,
                     step_of, train_rows)

INTERRUPTED, STALLED = 75, 79
GONE_S = 30   # within so many seconds after a kill every other process is gone, too
HANGS_S = 300  # a run that takes longer hangs: it would take a second or two

JOB = """
run: {{ dir = "run"; }};
model: {{ path = "{model}"; }};
task: {{ file = "{source}/configs/tasks/listops.cfg"; train = "train.jsonl"; eval = "eval.jsonl"; }};
method: {{ form = "nonlinear"; rank = 4; }};
train: {{ steps = {steps}; batch_size = 4; lr = 0.005; }};
eval: {{ every = 5; generate = false; }};
parallel: {{ threads = 1; }};
checkpoint: {{ every = 2; keep = 2; }};
log: {{ every = 1; }};
"""
COHORT = """
cohort = { resident = 2; members = (
    { name = "short"; train = { steps = 5; }; },
    { name = "long"; },
    { name = "lora"; method = { form = "none"; }; lora = { targets = "v"; rank = 2; }; },
    { name = "last"; train = { steps = 6; seed = 3; }; }
); };
"""
# name: ranks, job file, settings
LAYOUTS = {
    "1x1": (1, "job.cfg", ()),
    "2x1": (2, "job.cfg", ("parallel.stages=2", "parallel.replicas=1")),
    "1x2": (2, "job.cfg", ("parallel.stages=1", "parallel.replicas=2")),
    "2x2": (4, "job.cfg", ("parallel.stages=2", "parallel.replicas=2")),
    "cohort 2x1": (2, "cohort.cfg", ("parallel.stages=2", "parallel.replicas=1")),
    "cohort 1x2": (2, "cohort.cfg", ("parallel.stages=1", "parallel.replicas=2")),
}


def expect(holds, what):
    if not holds:
        raise Failure(what)


def sweep():
    """What tests left that were killed."""
    for path in pathlib.Path(tempfile.gettempdir()).glob("tt_ranks_*_*"):
        owner = path.name.split("_")[2]
        if owner.isdigit() and not os.path.exists(f"/proc/{owner}"):
            shutil.rmtree(path, ignore_errors=True)


class Lab:
    """A directory of its own, gone with the lab."""

    def __init__(self, trimtab, seed, steps=16):
        self.trimtab = str(pathlib.Path(trimtab).resolve())
        self.random = random.Random(seed)
        sweep()
        self.work = pathlib.Path(tempfile.mkdtemp(prefix=f"tt_ranks_{os.getpid()}_"))
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit(1))  # by way of __exit__
        self.references, self.seconds, self.lives = {}, {}, []
        self.data()
        job = JOB.format(source=SOURCE, model=SOURCE / "jobs/quickstart/model", steps=steps)
        (self.work / "job.cfg").write_text(job)
        (self.work / "cohort.cfg").write_text(job + COHORT)

    def data(self, held_out="eval.jsonl", n=4):
        make_data(self.trimtab, self.work, held_out, n)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for life in self.lives:
            life.end()
        shutil.rmtree(self.work, ignore_errors=True)

    def clear(self):
        shutil.rmtree(self.work / "run", ignore_errors=True)

    def begin(self, layout, *more, sets=(), env=None, launcher=None, what="train"):
        self.lives = [life for life in self.lives if life.all_processes()]
        self.lives.append(Life(self, layout, more, sets, env or {}, launcher, what))
        return self.lives[-1]

    def finish(self, layout, *more, **options):
        """A life that nothing happens to: it must end well."""
        life = self.begin(layout, *more, **options)
        status = life.wait()
        expect(status == 0, f"{layout} {more}: exit status {status}\n{life.said()}")
        return life

    def reference(self, layout, **options):
        """The final adapters of a run that nothing happens to; and how long it takes."""
        if layout not in self.references:
            self.clear()
            began = time.monotonic()
            self.finish(layout, **options)
            self.seconds[layout] = time.monotonic() - began
            self.references[layout] = self.adapters()
            expect(self.references[layout], "a run without checkpoints")
        return self.references[layout]

    def adapters(self):
        """Of every member (or the run): the newest checkpoint's step and its files' digests."""
        found = {}
        for directory in sorted((self.work / "run").glob("**/checkpoints")):
            newest = newest_checkpoint(directory.parent)
            if newest:
                found[directory.parent.name] = (step_of(newest),) + tuple(
                    hashlib.sha256((newest / name).read_bytes()).hexdigest()
                    for name in ("adapter.safetensors", "optimizer.safetensors"))
        return found

    def check_whole(self):
        """Every checkpoint that is there reads back as it was written."""
        for directory in (self.work / "run").glob("**/checkpoints"):
            if checkpoints(directory.parent):
                told = subprocess.run([self.trimtab, "inspect", directory.parent], text=True,
                                      capture_output=True, timeout=HANGS_S, check=False)
                expect(told.returncode == 0 and "damaged" not in told.stdout.lower(),
                       f"trimtab inspect: {told.stdout}{told.stderr}")

    def check_same(self, layout):
        expect(self.adapters() == self.references[layout],
               f"{layout}: ends elsewhere than the run that nothing happened to: {self.adapters()}, "
               f"expected {self.references[layout]}")

    def committed(self):
        """{run or member: the step that it would go on from, its newest life}"""
        found = {d.parent: newest_checkpoint(d.parent)
                 for d in (self.work / "run").glob("**/checkpoints")}
        return {run: (step_of(newest), newest_life(run)) for run, newest in found.items() if newest}

    def check_goes_on(self, committed):
        """A life since then went on from there: nothing that was committed was done again."""
        for run, (step, life) in committed.items():
            now = newest_life(run)
            steps = [row["step"] for row in train_rows(run) if row["life"] == now]
            expect(now == life or not steps or min(steps) == step + 1,
                   f"{run.name}: went on with step {min(steps, default=0)}, found a checkpoint of {step}")


class Life:
    """mpirun and its ranks, found by a word of their own in the environment."""

    def __init__(self, lab, layout, more, sets, env, launcher, what):
        self.ranks, job, settings = LAYOUTS[layout]
        self.word = f"TT_FAULTS={os.getpid()}.{random.SystemRandom().getrandbits(48)}"
        self.log = lab.work / "life.out"
        name, value = self.word.split("=")
        command = launcher or [str(SOURCE / "tests/mpirun.sh"), str(self.ranks)]
        command = command + [lab.trimtab, what, job, *more]
        for one in (*settings, *sets):
            command += ["--set", one]
        with open(self.log, "wb") as out:
            self.process = subprocess.Popen(
                command, cwd=lab.work, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True, env=dict(os.environ, LC_ALL="C", **env, **{name: value}))

    def said(self):
        return self.log.read_text(errors="replace")

    def all_processes(self):
        """Of this life, mpirun too; those that are dead but not yet waited for do not count."""
        found, word = [], self.word.encode()
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                environment = pathlib.Path("/proc", entry, "environ").read_bytes().split(b"\0")
                state = pathlib.Path("/proc", entry, "stat").read_text().rpartition(") ")[2][0]
            except OSError:
                continue
            if word in environment and state not in "ZX":
                found.append(int(entry))
        return found

    def rank_processes(self):
        """{rank: process} of those there are by now."""
        found = {}
        for pid in self.all_processes():
            try:
                if os.path.basename(os.readlink(f"/proc/{pid}/exe")) != "trimtab":
                    continue
                environment = pathlib.Path("/proc", str(pid), "environ").read_bytes()
            except OSError:
                continue
            rank = re.search(rb"(?:^|\0)OMPI_COMM_WORLD_RANK=(\d+)\0", environment)
            if rank:
                found[int(rank[1])] = pid
        return found

    def is_over(self):
        return self.process.poll() is not None

    def wait(self, seconds=HANGS_S):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failure(f"mpirun still runs after {seconds} s\n{self.said()}") from None

    def wait_gone(self, seconds=GONE_S):
        """mpirun and every rank; how long that took."""
        began = time.monotonic()
        while self.all_processes():
            if time.monotonic() - began > seconds:
                left = self.all_processes()
                states = "".join(f"\n{p}: {doing(p)}" for p in left)
                raise Failure(f"still there after {seconds} s: {states}\n{self.said()}")
            time.sleep(0.02)
        self.process.wait()
        return time.monotonic() - began

    def end(self):
        """Whatever is left of it."""
        for _ in range(50):
            left = self.all_processes()
            for pid in left:
                send(pid, signal.SIGKILL)
            if not left:
                break
            time.sleep(0.1)
        self.process.wait()


class Shim:
    """shim.c: something becomes of a rank at its n-th call that changes the run's directory."""

    def __init__(self, lab):
        self.lab, self.n_calls = lab, {}
        self.library, self.log = lab.work / "shim.so", lab.work / "shim.log"
        build_shim(self.library)

    def environment(self, fate, kind, at, rank=None, from_then_on=False):
        found = dict(LD_PRELOAD=str(self.library), SHIM_DIR=str(self.lab.work / "run"),
                     SHIM_LOG=str(self.log), SHIM_CLASS=kind, SHIM_KIND=fate, SHIM_AT=str(at),
                     ASAN_OPTIONS="detect_leaks=0:verify_asan_link_order=0")
        if rank is not None:
            found["SHIM_RANK"] = str(rank)
        if from_then_on:
            found["SHIM_FROM"] = "1"
        return found

    def lines(self, word):
        found = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.split() for line in found if line.startswith(word)]

    def count(self, layout, rank, kind):
        """Calls of a whole run."""
        if (layout, rank, kind) not in self.n_calls:
            self.lab.clear()
            self.log.unlink(missing_ok=True)
            self.lab.finish(layout, env=self.environment("kill", kind, 0, rank))
            self.lab.clear()
            self.n_calls[layout, rank, kind] = int(self.lines("count")[0][2])
        return self.n_calls[layout, rank, kind]


def send(pid, number):
    """False: it is gone already."""
    try:
        os.kill(pid, number)
        return True
    except ProcessLookupError:
        return False


def catches(pid, number):
    """Has the program come so far that it handles the signal?"""
    try:
        status = pathlib.Path("/proc", str(pid), "status").read_text()
        return bool(int(re.search(r"^SigCgt:\s*(\w+)", status, re.M)[1], 16) >> (number - 1) & 1)
    except (OSError, TypeError):
        return False


def doing(pid):
    try:
        return pathlib.Path("/proc", str(pid), "status").read_text().split("\nTgid")[0]
    except OSError:
        return "gone"


def wait_until(seconds, holds):
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > seconds:
            return False
        time.sleep(0.01)
    return True
