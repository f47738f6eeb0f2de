"""What the disk tests share: a directory of their own with data and a job on the shipped model,
runs of trimtab with or without the shim, and the verdict on how a run ended."""
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

from rundirs import (SOURCE, Failure, build_shim, make_data, newest_checkpoint, newest_life, step_of,
                     train_rows)

OK, FORMAT, IO, FENCED, CONFIG = 0, 65, 74, 77, 78
HANGS_S = 120  # nothing here takes seconds by itself

JOB = """
run: {{ dir = "{run}"; }};
model: {{ path = "{model}"; }};
task: {{ file = "{source}/configs/tasks/listops.cfg"; train = "train.jsonl"; eval = "eval.jsonl"; }};
method: {{ form = "nonlinear"; rank = 4; }};
train: {{ steps = 6; batch_size = 2; lr = 0.005; }};
eval: {{ before = false; after = false; generate = false; }};
parallel: {{ threads = 1; }};
checkpoint: {{ every = 2; keep = 2; }};
log: {{ every = 1; quiet = true; }};
"""
COHORT = """
cohort: {{ resident = 2; members = ( {{ name = "a"; train: {{ seed = 1; }}; }},
    {{ name = "b"; train: {{ seed = 2; }}; }} ); }};
"""


signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # cleans up, as after Ctrl-C


class Lab:
    def __init__(self, trimtab, seed):
        self.trimtab = str(pathlib.Path(trimtab).resolve())
        self.random = random.Random(seed)
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="tt_disk_"))
        self.run_dir = self.work / "run"
        self.log = self.work / "shim.log"
        self.env = dict(os.environ, OMP_NUM_THREADS="1", LC_ALL="C")
        self.shim = self.work / "shim.so"
        self.references, self.counts = {}, {}
        self.disk = None  # a small one, mounted below work
        build_shim(self.shim)
        self.make(self.work)

    def make(self, work):
        """Data and jobs in a directory."""
        make_data(self.trimtab, work)
        job = JOB.format(run="run", source=SOURCE, model=SOURCE / "jobs/quickstart/model")
        (work / "job.cfg").write_text(job)
        (work / "cohort.cfg").write_text(job + COHORT.format())

    def close(self):
        if self.disk:
            subprocess.run(["umount", self.disk], stderr=subprocess.DEVNULL)
        shutil.rmtree(self.work, ignore_errors=True)

    def clear(self):
        for path in [*self.work.glob("run*"), *(self.disk.iterdir() if self.disk else [])]:
            if path.is_symlink() or path.is_file():
                path.unlink()
            else:
                shutil.rmtree(path)
        self.log.unlink(missing_ok=True)

    def kept_run(self):
        """A finished run in the usual place."""
        self.clear()
        status, _, err = self.run(1, "train", "job.cfg")
        if status != OK:
            raise Failure(f"a plain run ends with {status}: {err}")
        return self.run_dir

    def move_run(self, run_dir):
        """From now on runs are there."""
        self.run_dir = run_dir
        below = run_dir.relative_to(self.work)
        text = (self.work / "job.cfg").read_text()
        (self.work / "job.cfg").write_text(text.replace('dir = "run"', f'dir = "{below}"'))

    def start(self, ranks, *arguments, shim=None, env=None, cwd=None):
        everything = dict(self.env, **(env or {}))
        if shim is not None:
            everything.update(LD_PRELOAD=str(self.shim), SHIM_DIR=str(self.run_dir),
                              SHIM_LOG=str(self.log), **{k: str(v) for k, v in shim.items()})
            everything.setdefault("ASAN_OPTIONS", "detect_leaks=0:verify_asan_link_order=0")
        command = [self.trimtab, *map(str, arguments)]
        if ranks > 1:
            command = [SOURCE / "tests/mpirun.sh", str(ranks), *command]
        return subprocess.Popen(command, cwd=cwd or self.work, env=everything, text=True,
                                errors="replace", stdin=subprocess.DEVNULL,
                                start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run(self, ranks, *arguments, **options):
        process = self.start(ranks, *arguments, **options)
        try:
            out, err = process.communicate(timeout=HANGS_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise Failure(f"hangs: trimtab {' '.join(map(str, arguments))}")
        return process.returncode, out, err

    def hits(self):
        """What the shim did, and how many calls of each rank there were."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        counts = {int(l.split()[1]): int(l.split()[2]) for l in lines if l.startswith("count")}
        return [l for l in lines if l.startswith("hit")], counts

    def digest(self, run=None):
        """Of the newest checkpoint's tensors, of every member."""
        out = []
        for member in sorted((run or self.run_dir).glob("**/checkpoints")):
            newest = newest_checkpoint(member.parent)
            if newest:
                for name in ("adapter.safetensors", "optimizer.safetensors"):
                    out.append((newest.name.split(".")[0], member.parent.name,
                                hashlib.sha256((newest / name).read_bytes()).hexdigest()))
        return out

    def reference(self, ranks, job="job.cfg"):
        """Of an uninterrupted run."""
        if (ranks, job) not in self.references:
            self.clear()
            status, _, err = self.run(ranks, "train", job)
            if status != OK:
                raise Failure(f"a plain run of {job} ends with {status}: {err}")
            self.references[ranks, job] = self.digest()
            self.clear()
        return self.references[ranks, job]

    def check_end(self, status, err, allowed, names=True):
        """One clear error on one rank's stderr, naming a file below the run's directory."""
        if status not in allowed:
            raise Failure(f"exit status {status}, expected one of {sorted(allowed)}: {err}")
        lines = re.findall(r"^trimtab: (?:error: )?(.*)", err, re.M)
        if status == OK:
            return ""
        if len(lines) != 1:
            raise Failure(f"exit status {status} with {len(lines)} errors: {err}")
        if names and not re.search(r"\brun\b|/run|checkpoints|metrics|members", lines[0]):
            raise Failure(f"the error names no file: {lines[0]}")
        return lines[0]

    def check_resume(self, ranks, job="job.cfg"):
        """The last good checkpoint is whole, and goes on to the bit-identical final adapter."""
        expected = self.reference_or_fail(ranks, job)
        step = {d: newest_step(d.parent) for d in self.run_dir.glob("**/checkpoints")}
        life = {d: newest_life(d.parent) for d in step}
        status, _, err = self.run(ranks, "train", job, "--resume=auto")
        if status != OK:
            raise Failure(f"resuming ends with {status}: {err}")
        if self.digest() != expected:
            raise Failure("resuming does not end with the same adapter")
        for directory, at in step.items():
            first = first_step_of_last_life(directory.parent)
            is_new = newest_life(directory.parent) > life[directory]
            if is_new and first is not None and first != at + 1:
                raise Failure(f"{directory.parent.name}: resumed at {first}, found a checkpoint of {at}")

    def reference_or_fail(self, ranks, job):
        if (ranks, job) not in self.references:
            raise Failure("ask for the reference first")
        return self.references[ranks, job]


def newest_step(run):
    newest = newest_checkpoint(run)
    return step_of(newest) if newest else 0


def first_step_of_last_life(run):
    """None: it trained no step, there being nothing left to do."""
    steps = [r["step"] for r in train_rows(run) if r["life"] == newest_life(run)]
    return min(steps, default=None)
