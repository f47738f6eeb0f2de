#!/usr/bin/env python3
"""Changes what must not change while a run uses it: the model's file (cut short, written over, a byte
of it, replaced, touched), and bits in the memory of one rank (a frozen norm, the adapter of one
replica). The run must end and name the file or the rank, or go on where that is harmless; going on
with the file as it was ends with the same bits.

    tests/faults/weights.py [--full] [--seed N] [TRIMTAB]"""
import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import struct
import sys

from ranks import LAYOUTS, Lab, expect, send, wait_until
from rundirs import SOURCE, Failure, Table, checkpoints, newest_checkpoint, step_of, train_rows

BAD_FILE, INTERNAL, IO, CONFIG = 65, 70, 74, 78
EVERY, STEPS, KEPT_AT = 5, 400, 200
LAYOUTS["1x4"] = (4, "job.cfg", ("parallel.stages=1", "parallel.replicas=4"))
LIVING = ("eval.every=0", "eval.before=false", "eval.after=false", f"checkpoint.every={KEPT_AT}",
          "checkpoint.keep=20")


class Model(Lab):
    """A lab with a model of its own, which can be spoilt and put right."""

    def __init__(self, trimtab, seed):
        super().__init__(trimtab, seed, steps=STEPS)
        self.model = self.work / "model"
        self.good = SOURCE / "jobs/quickstart/model/model.safetensors"
        shutil.copytree(self.good.parent, self.model)
        self.file = self.model / "model.safetensors"
        job = self.work / "job.cfg"
        job.write_text(job.read_text().replace(str(self.good.parent), str(self.model)))
        self.bytes = self.good.read_bytes()
        size = struct.unpack("<Q", self.bytes[:8])[0]
        self.data = 8 + size
        self.tensors = {name: [self.data + at for at in entry["data_offsets"]]
                        for name, entry in json.loads(self.bytes[8:8 + size]).items()
                        if name != "__metadata__"}

    def mend(self):
        """As it was, with the time it had."""
        (self.model / "weights.xxh3").unlink(missing_ok=True)
        aside = self.model / "aside"
        shutil.copy2(self.good, aside)
        aside.rename(self.file)

    def holder(self, at):
        return next(name for name, (first, end) in self.tensors.items() if first <= at < end)

    def flip(self, at):
        """One bit of the file, as memory might: its time stays."""
        times = self.file.stat()
        with open(self.file, "r+b") as stream:
            stream.seek(at)
            stream.write(bytes([self.bytes[at] ^ 1 << self.random.randrange(8)]))
        os.utime(self.file, ns=(times.st_atime_ns, times.st_mtime_ns))

    def norm(self, name):
        """A norm's fp32 numbers, as every rank that has the layer keeps them."""
        first, end = self.tensors[name]
        return b"".join(b"\0\0" + self.bytes[at:at + 2] for at in range(first, end, 2))


def hold(life, going):
    """All its ranks stand still, or go on."""
    for pid in life.rank_processes().values():
        send(pid, signal.SIGCONT if going else signal.SIGSTOP)


def begin_and_hold(lab, layout, *sets, ready=None):
    """A run that stands still somewhere in its middle."""
    lab.clear()
    life = lab.begin(layout, sets=LIVING + sets)
    run = lab.work / "run"
    ready = ready or (lambda: max((row["step"] for row in train_rows(run)), default=0) >= 5)
    there = wait_until(120, lambda: ready() or life.is_over())
    hold(life, False)
    expect(there and not life.is_over(), f"over before it was spoilt\n{life.said()}")
    return life


def ends(life, status, *texts):
    hold(life, True)
    found = life.wait()
    said = life.said()
    life.wait_gone()
    expect(found == status, f"exit status {found}, expected {status}\n{said}")
    for text in texts:
        expect(text in said, f"does not say: {text}\n{said}")
    return said


def has_kept(lab):
    return lambda: newest_checkpoint(lab.work / "run") is not None


def goes_on_to_the_same(lab, layout):
    """With the file as it was, from the checkpoint of the middle."""
    expect([step_of(c) for c in checkpoints(lab.work / "run")] == [KEPT_AT], "another checkpoint")
    lab.mend()
    lab.finish(layout, "--resume=auto", sets=LIVING)
    lab.check_same(layout)


# --- Files -------------------------------------------------------------------------------------


def cut_short(lab):
    layout = lab.random.choice(("2x1", "1x2"))
    lab.reference(layout, sets=LIVING)
    life = begin_and_hold(lab, layout, ready=has_kept(lab))
    os.truncate(lab.file, lab.random.randrange(len(lab.bytes) // 2))
    ends(life, IO, "trimtab: error: rank ", f"{lab.file}: cut short while it was in use")
    goes_on_to_the_same(lab, layout)


def one_bit(lab):
    """In the page cache, where nothing but a checksum sees it."""
    layout = lab.random.choice(("2x1", "1x2"))
    lab.reference(layout, sets=LIVING)
    life = begin_and_hold(lab, layout, f"guard.weights_every={EVERY}", ready=has_kept(lab))
    name = lab.random.choice([n for n in lab.tensors if n.endswith("_proj.weight")])
    lab.flip(lab.random.randrange(*lab.tensors[name]))
    done = max(row["step"] for row in train_rows(lab.work / "run"))
    said = ends(life, IO, f"frozen tensor '{name}'", "changed in memory", "rank ")
    found = int(re.search(r"step (\d+): frozen tensor", said)[1])
    expect(found <= done + EVERY + 2, f"found after step {found}, spoilt at {done}")
    goes_on_to_the_same(lab, layout)


def written_over(lab):
    life = begin_and_hold(lab, "2x1", "checkpoint.every=10")
    kept = {step_of(c) for c in checkpoints(lab.work / "run")}
    other = bytearray(lab.bytes)
    for first, end in lab.tensors.values():  # another model of the same shape
        for at in range(first, end - 1, 2):
            other[at] ^= 3
    with open(lab.file, "r+b") as stream:
        stream.write(other)
    ends(life, IO, str(lab.file), "while it is in use")
    since = {step_of(c) for c in checkpoints(lab.work / "run")} - kept
    expect(not since, f"steps {since} were saved after the file was written over")
    lab.mend()


def replaced(lab):
    """Under the same name, as an update of the model would: the old one stays mapped."""
    layout = "1x2"
    lab.reference(layout, sets=LIVING)
    life = begin_and_hold(lab, layout)
    aside = lab.model / "aside"
    other = bytearray(lab.bytes)
    for first, end in lab.tensors.values():
        other[first] ^= 1
    aside.write_bytes(other)
    aside.rename(lab.file)
    ends(life, 0, "another file, or none, has its name now")
    lab.check_same(layout)
    shutil.rmtree(newest_checkpoint(lab.work / "run"))  # so that there is something to do
    life = lab.begin(layout, "--resume=auto", sets=LIVING)
    ends(life, CONFIG, "trained on another model")
    lab.mend()


def touched(lab):
    layout = "1x2"
    lab.reference(layout, sets=LIVING)
    life = begin_and_hold(lab, layout, "guard.weights=load")
    os.utime(lab.file)
    ends(life, 0, "its time changed, its weights did not")
    lab.check_same(layout)
    lab.mend()


def between_lives(lab):
    """A byte that the model's fingerprint does not see, but the record of the first life."""
    layout, guard = "1x2", "guard.weights=load"
    life = begin_and_hold(lab, layout, guard, ready=has_kept(lab))
    for pid in life.rank_processes().values():
        send(pid, signal.SIGKILL)
    life.wait()
    life.wait_gone()
    name = lab.random.choice([n for n in lab.tensors if n.endswith("_proj.weight")])
    lab.flip(lab.tensors[name][0] + 5000)
    life = lab.begin(layout, "--resume=auto", sets=LIVING + (guard,))
    ends(life, BAD_FILE, f"tensor '{name}'", "weights.xxh3", "the model has changed, or was read wrong")
    lab.mend()


# --- Memory ------------------------------------------------------------------------------------


def flip_in_memory(pid, pattern, offset):
    """One bit of every place in the process's own memory that holds these bytes; how many."""
    n = 0
    maps = pathlib.Path("/proc", str(pid), "maps").read_text().splitlines()
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        for line in maps:
            spans, rights = line.split()[:2]
            first, end = (int(x, 16) for x in spans.split("-"))
            if not rights.startswith("rw") or "/dev/" in line or end - first > 1 << 30:
                continue
            try:
                memory.seek(first)
                held = memory.read(end - first)
            except OSError:
                continue
            at = held.find(pattern)
            while at >= 0:
                memory.seek(first + at + offset)
                memory.write(bytes([pattern[offset] ^ 1]))
                n += 1
                at = held.find(pattern, at + 1)
    return n


def norm_in_memory(lab):
    """Of one rank alone: the other ranks hold copies of their own."""
    life = begin_and_hold(lab, "1x4", f"guard.weights_every={EVERY}")
    rank = lab.random.randrange(life.ranks)
    layer = lab.random.randrange(4)
    name = f"model.layers.{layer}.{lab.random.choice(('input', 'post_attention'))}_layernorm.weight"
    pattern = lab.norm(name)
    n = flip_in_memory(life.rank_processes()[rank], pattern, 4 * lab.random.randrange(10) + 2)
    expect(n >= 1, f"{name} is nowhere in rank {rank}'s memory")
    ends(life, IO, f"rank {rank} (node ", f"frozen tensor '{name}' (layer {layer}) changed in memory")


def adapter_in_memory(lab, layout):
    """A bit of one replica's adapter, which a learning rate of next to nothing leaves where it is."""
    sets = (f"guard.replicas_every={EVERY}", "train.lr=1e-30", "checkpoint.every=5", "train.steps=100000")
    life = begin_and_hold(lab, layout, *sets, ready=has_kept(lab))
    rank = lab.random.randrange(life.ranks)
    held = (newest_checkpoint(lab.work / "run") / "adapter.safetensors").read_bytes()
    size = struct.unpack("<Q", held[:8])[0]
    downs = {name: entry["data_offsets"] for name, entry in json.loads(held[8:8 + size]).items()
             if name.endswith("down.weight")}
    name = lab.random.choice(sorted(downs))
    first = 8 + size + downs[name][0]
    n = flip_in_memory(life.rank_processes()[rank], held[first:first + 256], 128)
    expect(n >= 1, f"{name} is nowhere in rank {rank}'s memory")
    said = ends(life, INTERNAL, f"tensor '{name}'", "replicas have drifted apart")
    told = [r for r in range(life.ranks) if f"rank {r} (node " in said]
    expected = [rank] if life.ranks > 2 else [0, 1]
    expect(told == expected, f"ranks {told} are named, expected {expected}\n{said}")


# -----------------------------------------------------------------------------------------------

CASES = (
    # fault, what happens, the case, how often: in the suite, in full
    ("model file cut short under a run", "exit 74 by SIGBUS, the rank, the file and the byte named; "
     "resumed with the whole file: the same bits", cut_short, 1, 20),
    ("one bit of a frozen weight flips in the page cache, the file's time unchanged",
     f"found within {EVERY} steps (`guard.weights_every = {EVERY}`), exit 74, tensor and bytes "
     "named; resumed: the same bits", one_bit, 1, 20),
    ("model file written over in place by another model", "found before the next checkpoint: exit 74, "
     "nothing saved since", written_over, 1, 10),
    ("model file replaced under its name", "the run goes on with the old one, to the same bits, and "
     "says so; a later life is refused (exit 78)", replaced, 1, 5),
    ("model file touched", "weights compared, the run goes on to the same bits", touched, 1, 5),
    ("one bit of the model changes between lives", "the later life is refused (exit 65, `guard.weights "
     "= \"load\"`), the tensor named", between_lives, 1, 20),
    ("one bit of a norm flips in one rank's memory", "that rank, its node and the tensor named, exit "
     "74", norm_in_memory, 1, 20),
    ("one bit of one replica's adapter flips, of 4", "that rank and the tensor named, exit 70, by "
     "`guard.replicas_every` or the checkpoint", lambda lab: adapter_in_memory(lab, "1x4"), 1, 20),
    ("the same of 2 replicas", "both named, exit 70", lambda lab: adapter_in_memory(lab, "1x2"), 1, 10),
)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("trimtab", nargs="?", default=SOURCE / "build/release/trimtab")
    given = parser.parse_args()
    table = Table("tests/faults/weights.py --full" if given.full else "tests/faults/weights.py")
    with Model(given.trimtab, given.seed) as lab:
        for fault, what, case, bounded, full in CASES:
            n = full if given.full else bounded
            try:
                for _ in range(n):
                    case(lab)
                table.row(fault, n, what)
            except Failure as why:
                table.fail(fault, why)
                lab.mend()
            for life in lab.lives:
                life.end()
    sys.exit(1 if table.failures else 0)


if __name__ == "__main__":
    main()
