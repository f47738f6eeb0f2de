#!/usr/bin/env python3
"""People who mean harm: tests/faults/security.py [--full] [--seed N] [--only PART] [TRIMTAB]

What docs/security.md promises, tried on the whole program: names that a shell would run, links that
lead out of a run's directory, files that are no files, terminals that are commanded. One line a
promise in the form of docs/reliability.md; exits 1 when one is broken. Single functions are tested in
tests/unit/test_inside.c."""
import argparse
import json
import os
import pathlib
import re
import shutil
import socket
import stat
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from lab import CONFIG, FORMAT, IO, OK, Lab
from rundirs import SOURCE, Failure, Table, rows_of

MODEL = SOURCE / "jobs/quickstart/model"
CLEAR = {64, FORMAT, 66, 71, IO, CONFIG}  # an error that was told, and no signal

HOSTILE = ["$(touch hacked)", "`touch hacked`", "; touch hacked", "a\ntouch hacked", "a'b\"c", "-rf",
           "--help", "a b", "*", "~", "%s%n%s%n", "${IFS}touch${IFS}hacked", "|touch hacked",
           "ünïcödé 名前 🦀", "a\x1b]0;hacked\x07b", "\u202egpj", "..", "../up", "/tmp/hacked", "", ".",
           "x" * 63, "x" * 255, "x" * 5000]


def say(text):
    return ascii(text[:30])


def quoted(text):
    """As libconfig's strings have it."""
    out = ""
    for c in text:
        out += {'"': '\\"', "\\": "\\\\", "\n": "\\n"}.get(c, c if c >= " " else f"\\x{ord(c):02x}")
    return f'"{out}"'


class Watch:
    """Nothing outside the run's directory may change."""

    def __init__(self, lab):
        self.lab = lab
        self.outside = lab.work / "elsewhere"
        shutil.rmtree(self.outside, ignore_errors=True)
        self.outside.mkdir()
        (self.outside / "kept").write_text("kept\n")
        (self.outside / "checkpoints").mkdir()

    def look(self, what):
        names = sorted(p.name for p in self.outside.rglob("*"))
        if names != ["checkpoints", "kept"] or (self.outside / "kept").read_text() != "kept\n":
            raise Failure(f"{what}: changed outside: {names}")
        for directory in (self.lab.work, pathlib.Path("/tmp"), SOURCE):
            if (directory / "hacked").exists():
                raise Failure(f"{what}: a shell has run it")


def tried(table, title, lab, cases, what):
    n, some = 0, 3
    if not lab.full and len(cases) > some:
        cases = [cases[i] for i in sorted(lab.random.sample(range(len(cases)), some))]
    for name, case in cases:
        try:
            case()
            n += 1
        except Failure as why:
            table.fail(title, f"{name}: {why}")
    table.row(title, str(n), what)


def check_clear(status, err, allowed=CLEAR, what=""):
    if status not in allowed:
        raise Failure(f"exit status {status}, expected one of {sorted(allowed)}: {err[:400]} {what}")
    if status != OK and "trimtab: error: " not in err:
        raise Failure(f"no error told: {err[:400]}")
    if "\x1b" in err or "\x9b" in err:
        raise Failure(f"commands a terminal: {err[:200]!r}")


# --- Names -------------------------------------------------------------------------------------------

def names(lab, table):
    watch = Watch(lab)
    job = (lab.work / "job.cfg").read_text()

    def run_name(name):
        lab.clear()
        text = job.replace('run: { dir = "run";', f'run: {{ dir = "run"; name = {quoted(name)};')
        (lab.work / "named.cfg").write_text(text)
        status, out, err = lab.run(1, "check", "named.cfg")
        check_clear(status, err, CLEAR | {OK})
        if "\x1b" in out:
            raise Failure("commands a terminal")
        watch.look("run.name")

    def member(name):
        lab.clear()
        (lab.work / "members.cfg").write_text(
            job + f'cohort: {{ members = ( {{ name = {quoted(name)}; }}, {{ name = "b"; }} ); }};\n')
        status, out, err = lab.run(1, "train", "members.cfg", "--set", "train.steps=1")
        check_clear(status, err, CLEAR | {OK})
        if "\x1b" in out:
            raise Failure("commands a terminal")
        if status == OK and sorted(p.name for p in lab.run_dir.iterdir() if p.is_dir()) != \
                sorted(["b", name, "checkpoints", "generations", "lives"]):
            raise Failure(f"directories: {sorted(p.name for p in lab.run_dir.iterdir())}")
        watch.look("a member's name")

    def path(name):
        """As a path of data, and of a run."""
        lab.clear()
        if not name or len(name) > 255 or name in (".", "..") or "/" in name:
            return
        shutil.copy(lab.work / "train.jsonl", lab.work / name)
        text = job.replace('train = "train.jsonl"', f"train = {quoted(name)}").replace(
            'dir = "run"', f"dir = {quoted('run/' + name)}")
        (lab.work / "path.cfg").write_text(text)
        status, _, err = lab.run(1, "train", "path.cfg", "--set", "train.steps=1")
        check_clear(status, err, {OK, CONFIG})
        if status == OK and not (lab.run_dir / name / "job.cfg").exists():
            raise Failure("went elsewhere")
        if status == OK:
            status, _, err = lab.run(1, "eval", lab.run_dir / name / "job.cfg", "--adapter",
                                     f"run/{name}", "--quiet")
            check_clear(status, err, {OK}, "from its own job.cfg")
        (lab.work / name).unlink()
        watch.look("a path")

    tried(table, "run names that a shell or a path would take as more", lab,
          [(say(n), lambda n=n: run_name(n)) for n in HOSTILE], "a name, or exit 78; nothing runs")
    tried(table, "members' names, likewise", lab,
          [(say(n), lambda n=n: member(n)) for n in HOSTILE],
          "a directory of that very name in the cohort's, or exit 78")
    tried(table, "paths of data and runs, likewise", lab,
          [(say(n), lambda n=n: path(n)) for n in HOSTILE], "taken as they are")


# --- Links -------------------------------------------------------------------------------------------

def links(lab, table):
    watch = Watch(lab)
    outside = watch.outside

    def refused(name, target, job="job.cfg", sets=()):
        lab.clear()
        (lab.run_dir / name).parent.mkdir(parents=True)
        (lab.run_dir / name).symlink_to(target)
        status, _, err = lab.run(1, "train", job, *sets)
        watch.look(name)
        check_clear(status, err, {IO})
        if "symbolic link" not in err:
            raise Failure(f"does not name the link: {err}")
        if not (lab.run_dir / name).is_symlink():
            raise Failure("the link was replaced")

    trace = ("--set", "log.trace=true")
    cases = [(n, lambda n=n, t=t: refused(n, t)) for n, t in [
        ("checkpoints", outside / "checkpoints"), ("generations", outside), ("lives", outside),
        ("job.cfg", outside / "kept"), ("job.cfg", outside / "new"),
        ("metrics.jsonl", outside / "kept"), ("metrics.jsonl", outside / "new"),
        ("lives/000001.json", outside / "kept")]]
    cases += [("trace.json", lambda: refused("trace.json", outside / "kept", sets=trace))]
    cases += [(n, lambda n=n, t=t: refused(n, t, "cohort.cfg")) for n, t in [
        ("cohort.json", outside / "kept"), ("a", outside), ("a/checkpoints", outside / "checkpoints"),
        ("a/metrics.jsonl", outside / "kept"), ("a/job.cfg", outside / "kept"),
        ("a/generations", outside), ("a/lives", outside)]]

    def above():
        """The directory itself may be a link."""
        lab.clear()
        (lab.work / "run.real").mkdir()
        lab.run_dir.symlink_to("run.real")
        status, _, err = lab.run(1, "train", "job.cfg")
        check_clear(status, err, {OK})
        if not (lab.work / "run.real/metrics.jsonl").exists() or not lab.run_dir.is_symlink():
            raise Failure("went elsewhere")

    def claimed():
        """A claim's name that is a link is taken by it."""
        lab.clear()
        (lab.run_dir / "generations").mkdir(parents=True)
        (lab.run_dir / "generations/000001").symlink_to(outside / "new")
        status, _, err = lab.run(1, "train", "job.cfg")
        watch.look("a claim")
        check_clear(status, err, {OK})

    def unfinished():
        """Leftovers and old checkpoints that are links are removed, not what they lead to."""
        lab.clear()
        (lab.run_dir / "checkpoints").mkdir(parents=True)
        for name in ("step-0000000002.g000001.tmp", "step-0000000001.g000000.trash",
                     "step-0000000001.g000000"):
            (lab.run_dir / "checkpoints" / name).symlink_to(outside)
        status, _, err = lab.run(1, "train", "job.cfg", "--resume=auto", "--set", "checkpoint.keep=1")
        watch.look("checkpoints that are links")
        check_clear(status, err, CLEAR | {OK})

    cases += [("above", above), ("claimed", claimed), ("unfinished", unfinished)]
    tried(table, "links that lead out of the run's or a member's directory", lab, cases,
          "exit 74, the link named; nothing outside changes; run.dir itself may be one")


# --- Sweeps ------------------------------------------------------------------------------------------

def sweeps(lab, table):
    watch = Watch(lab)
    job = (lab.work / "job.cfg").read_text().replace('run: { dir = "run"; };', "")
    axes = 'sweep = {{ {}axes = ({{ name = {}; choices = ({{ name = {}; train = {{ seed = 1; }}; }}, ' \
           '{{ name = "two"; train = {{ seed = 2; }}; }}); }}); }};\n'

    def plan(name, axis="seed", choice="one", out="run/sweep"):
        lab.clear()
        lab.run_dir.mkdir()
        (lab.work / "sweep.cfg").write_text(job + axes.format(
            f"name = {quoted(name)}; " if name is not None else "", quoted(axis), quoted(choice)))
        status, text, err = lab.run(1, "sweep", "plan", "sweep.cfg", "--out", out, "--rate", "1")
        check_clear(status, err, CLEAR | {OK})
        if any(c in text for c in "\x1b\x07\x9b"):
            raise Failure("commands a terminal")
        watch.look("a sweep")
        return status, text

    def name_of(text, **where):
        status, _ = plan(text if not where else None, **where)
        if status != OK:
            return
        for command in (["run", "run/sweep", "--index", "0", "--quiet"], ["status", "run/sweep"],
                        ["report", "run/sweep"]):
            status, out, err = lab.run(1, "sweep", *command)
            check_clear(status, err, CLEAR | {OK})
            if any(c in out for c in "\x1b\x07\x9b"):
                raise Failure(f"sweep {command[0]} commands a terminal")
            watch.look(f"sweep {command[0]}")
        page = lab.run_dir / "sweep/report/report.html"
        if text.startswith("<") and page.exists() and text in page.read_text():
            raise Failure("the page runs it")

    def array_line(out):
        """The line to copy is what a shell takes as it is meant."""
        status, text = plan("x", out=out)
        line = next((l for l in text.splitlines() if "sbatch" in l), None)
        if status != OK or line is None:
            raise Failure(f"no line to submit: {status} {text[:300]}")
        (lab.work / "sbatch").write_text('#!/bin/sh\nfor a; do last=$a; done\nprintf %s "$last" >run/got\n')
        (lab.work / "sbatch").chmod(0o755)
        subprocess.run(["sh", "-c", line[line.index("sbatch"):]], cwd=lab.work, timeout=60,
                       env=dict(os.environ, PATH=f"{lab.work}:{os.environ['PATH']}"),
                       stdin=subprocess.DEVNULL, capture_output=True)
        watch.look("the line to submit")
        got = (lab.run_dir / "got").read_text() if (lab.run_dir / "got").exists() else None
        if got != out:
            raise Failure(f"a shell takes {line!r} as {got!r}")

    def link(name, target):
        plan(None)
        path = lab.run_dir / "sweep" / name
        if path.is_dir():
            shutil.move(path, lab.run_dir / "moved")
        elif path.exists():
            path.unlink()
        path.symlink_to(target)
        status, _, err = lab.run(1, "sweep", "run", "run/sweep", "--index", "0", "--quiet")
        watch.look(name)
        check_clear(status, err, {IO})
        if "symbolic link" not in err:
            raise Failure(f"does not name the link: {err}")

    few = ["$(touch hacked)", "; touch hacked", "a'b\"c", "-rf", "../up", "a\nb", "a\x1b]0;hacked\x07b",
           "a\x9b31mb", "<script>touch</script>", "x" * 300]
    tried(table, "names of sweeps, axes and values that a shell, a page or a terminal would take as more",
          lab, [(say(n), lambda n=n: name_of(n)) for n in few] +
          [(f"axis {say(n)}", lambda n=n: name_of(n, axis=n)) for n in few[:8:2]] +
          [(f"value {say(n)}", lambda n=n: name_of(n, choice=n)) for n in few],
          "a name, or exit 78; nothing runs")
    tried(table, "the line to submit, for directories with such names", lab,
          [(say(n), lambda n=n: array_line(n)) for n in
           ["run/s", "run/a b", "run/$(touch hacked)", "run/;touch hacked", "run/a'b"]],
          "quoted: a shell takes it as it is")
    tried(table, "links that lead out of a sweep's directory", lab,
          [(n, lambda n=n, t=t: link(n, t)) for n, t in [
              ("groups", watch.outside), ("leases", watch.outside), ("rungs", watch.outside),
              ("groups/g0000", watch.outside)]], "exit 74, the link named")


# --- Modes -------------------------------------------------------------------------------------------

def modes(lab, table):
    def with_mask(mask):
        lab.clear()
        shutil.rmtree(lab.work / "out", ignore_errors=True)
        before = os.umask(mask)
        try:
            for job in ("job.cfg", "cohort.cfg"):
                status, _, err = lab.run(2, "train", job, "--set", "log.trace=true", "--set",
                                         f"run.dir=run/{job}")
                check_clear(status, err, {OK})
            status, _, err = lab.run(1, "export", "--adapter", "run/job.cfg", "--model", MODEL,
                                     "--format", "steerling", "--out", "out", "--quiet")
            check_clear(status, err, {OK})
        finally:
            os.umask(before)
        for top in (lab.run_dir, lab.work / "out"):
            for path in [top, *top.rglob("*")]:
                mode = stat.S_IMODE(path.lstat().st_mode)
                most = (0o777 if path.is_dir() else 0o666) & ~mask
                if mode & ~most:
                    raise Failure(f"{path.name}: mode {mode:o}, at most {most:o}")

    tried(table, "modes of what is written, under umasks 000, 022, 027, 077", lab,
          [(f"{m:03o}", lambda m=m: with_mask(m)) for m in (0, 0o022, 0o027, 0o077)],
          "666 or 777 less the umask, no more bits")


# --- Paths in files ----------------------------------------------------------------------------------

def confined(lab, table):
    def index(target):
        shutil.rmtree(lab.work / "model", ignore_errors=True)
        shutil.copytree(MODEL, lab.work / "model")
        header = (MODEL / "model.safetensors").read_bytes()
        n = int.from_bytes(header[:8], "little")
        tensors = [t for t in json.loads(header[8:8 + n]) if t != "__metadata__"]
        shutil.copy(MODEL / "model.safetensors", lab.work / "outside.safetensors")
        (lab.work / "model/model.safetensors").unlink()
        (lab.work / "model/model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": {t: target for t in tensors}}))
        status, out, err = lab.run(1, "check", "job.cfg", "--set", "model.path=model")
        check_clear(status, err, {FORMAT, CONFIG})
        if "root:" in out + err:
            raise Failure("shows what is in /etc/passwd")

    targets = ["../outside.safetensors", "/etc/passwd", "../../../../../../etc/passwd",
               str(lab.work / "outside.safetensors"), "..", "", ".", "x/../../outside.safetensors",
               "a\n.safetensors"]
    tried(table, "an index of shards that names files outside the model's directory", lab,
          [(say(t), lambda t=t: index(t)) for t in targets], "exit 65")


# --- Files that are no files ---------------------------------------------------------------------------

def strange(lab, table):
    shutil.rmtree(lab.work / "model", ignore_errors=True)
    lab.clear()
    lab.run(1, "train", "job.cfg")
    shutil.copytree(lab.run_dir, lab.work / "trained")
    trained = lab.work / "trained"
    checkpoint = next((trained / "checkpoints").glob("step-0000000006*"))
    shutil.copytree(MODEL, lab.work / "model")
    (lab.work / "strange.cfg").write_text((lab.work / "job.cfg").read_text().replace(
        str(MODEL), "model").replace(str(SOURCE / "configs/tasks/listops.cfg"), "task.cfg"))
    shutil.copy(SOURCE / "configs/tasks/listops.cfg", lab.work / "task.cfg")
    # what reads the file: a command of which it is part
    check, evaluate = ["check", "strange.cfg"], ["eval", "strange.cfg", "--adapter", "trained", "--quiet"]
    train = ["train", "strange.cfg"]
    resume = ["train", "strange.cfg", "--resume", "--set", "run.dir=trained"]
    files = [("strange.cfg", check), ("task.cfg", check), ("train.jsonl", train),
             ("eval.jsonl", evaluate), ("model/config.json", check),
             ("model/model.safetensors", check), ("model/tokenizer.json", check),
             (checkpoint.relative_to(lab.work) / "adapter.safetensors", evaluate),
             (checkpoint.relative_to(lab.work) / "optimizer.safetensors", resume),
             (checkpoint.relative_to(lab.work) / "state.json", evaluate)]

    def fifo(path):
        os.mkfifo(path)

    def listener(path):
        here = os.getcwd()
        os.chdir(path.parent)  # the names of sockets are short
        try:
            socket.socket(socket.AF_UNIX).bind(path.name)
        finally:
            os.chdir(here)

    def sparse(path):
        with open(path, "wb") as file:
            file.truncate(1 << 42)

    kinds = {"a FIFO": fifo, "/dev/zero": lambda p: p.symlink_to("/dev/zero"),
             "/dev/tty": lambda p: p.symlink_to("/dev/tty"), "a socket": listener,
             "a directory": lambda p: p.mkdir(), "4 TiB of nothing": sparse,
             "deep JSON": lambda p: p.write_bytes(b"[" * 200000),
             "deep settings": lambda p: p.write_bytes(b"a = " + b"(" * 200000),
             "control bytes": lambda p: p.write_bytes(b"\x1b]0;hacked\x07\x9b31m\xc2\x9b31m" * 50)}

    def one(name, command, make):
        path = lab.work / name
        aside = path.with_name(path.name + ".aside")
        path.rename(aside)
        try:
            make(path)
            lab.clear()
            status, out, err = lab.run(1, *command)
            check_clear(status, err)
            if path.name not in err and path.parent.name not in err:
                raise Failure(f"does not name it: {err[:300]}")
        finally:
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            elif path.exists() or path.is_symlink():
                path.unlink()
            aside.rename(path)

    for kind, make in kinds.items() if lab.full else lab.random.sample(list(kinds.items()), 4):
        tried(table, f"{kind} in place of a job, task, data, model or checkpoint file", lab,
              [(str(n), lambda n=n, c=c: one(n, c, make)) for n, c in files],
              "no waiting; an error that names it")


# --- Terminals -----------------------------------------------------------------------------------------

ESCAPES = ["a\x1b]0;hacked\x07\x1b[31mb", "a\x9b31mb", "a\x7fb"]


def terminals(lab, table):
    for text in ESCAPES:
        terminal(lab, table, text)


def terminal(lab, table, escapes):
    def looked_at(*command, allowed=CLEAR | {OK}):
        status, out, err = lab.run(1, *command)
        check_clear(status, err, allowed)
        for text in (out, err):
            if any(c < " " and c not in "\n\t\r" or "\x7f" <= c <= "\x9f" for c in text):
                at = next(i for i, c in enumerate(text) if c < " " and c not in "\n\t\r" or "\x7f" <= c <= "\x9f")
                raise Failure(f"commands a terminal: {text[max(0, at - 40):at + 40]!r}")

    lab.clear()
    lab.run(1, "train", "job.cfg")
    shutil.rmtree(lab.work / "model", ignore_errors=True)
    shutil.copytree(MODEL, lab.work / "model")
    config = json.loads((MODEL / "config.json").read_text())
    config.update(model_type=escapes)
    (lab.work / "model/config.json").write_text(json.dumps(config))

    def tokenizer():
        shutil.rmtree(lab.work / "words", ignore_errors=True)
        shutil.copytree(MODEL, lab.work / "words")
        words = json.loads((MODEL / "tokenizer.json").read_text())
        words.setdefault("added_tokens", []).append(
            {"id": 5, "content": escapes, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True})
        (lab.work / "words/tokenizer.json").write_text(json.dumps(words))
        looked_at("inspect", "words")

    def tensor():
        name = escapes
        header = json.dumps({name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                             "__metadata__": {escapes: escapes}}).encode()
        (lab.work / "t.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
        looked_at("inspect", "t.safetensors", "--tensors")

    def metrics():
        row = {"kind": "eval", "what": escapes, "step": 6, "loss": 1.0, "life": 1}
        with open(lab.run_dir / "metrics.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
        looked_at("inspect", "run")
        looked_at("table", "run")

    def job():
        text = (lab.work / "job.cfg").read_text()
        (lab.work / "esc.cfg").write_text(text.replace('run: { dir', f'run: {{ name = {quoted(escapes)}; dir'))
        looked_at("check", "esc.cfg")
        looked_at("train", "esc.cfg", "--set", "log.quiet=false", "--set", "run.dir=run/esc")
        looked_at("inspect", "run/esc")

    def words():
        looked_at("check", "job.cfg", "--set", f"model.path={escapes}")
        looked_at(escapes)
        looked_at("inspect", escapes)
        looked_at("check", f"{escapes}.cfg")

    tried(table, f"{say(escapes)} in configuration, tokenizer, tensors, metrics, job, command line", lab,
          [("config.json", lambda: looked_at("inspect", "model")),
           ("check", lambda: looked_at("check", "job.cfg", "--set", "model.path=model")),
           ("tokenizer", tokenizer), ("tensor", tensor), ("metrics", metrics), ("job", job),
           ("command line", words)], "no control byte reaches it")


# --- Scripts -------------------------------------------------------------------------------------------

def scripts(lab, table):
    """What users' names pass through on the way to the program."""
    title = "scripts that take a name for a command"
    paths = [p for d in ("slurm", "jobs") for p in sorted((SOURCE / d).rglob("*"))
             if p.suffix in (".sh", ".sbatch", ".conf")]
    for path in paths:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            code = line.split("#")[0] if line.lstrip().startswith("#") else line
            if re.search(r"(^|[;&|(]\s*|\bdo\s+|\bthen\s+)eval\s", code) or re.search(
                    r"\b(ba)?sh -c [\"$]", code):
                table.fail(title, f"{path.relative_to(SOURCE)}:{number}: {line.strip()}")
    table.row(title, f"{len(paths)} scripts", "none uses eval, or a shell on a made-up text")


PARTS = {"names": names, "links": links, "sweeps": sweeps, "modes": modes, "confined": confined, "strange": strange,
         "terminals": terminals, "scripts": scripts}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true", help="all names and files, not some of them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=sorted(PARTS))
    parser.add_argument("trimtab", nargs="?", default=SOURCE / "build/release/trimtab")
    asked = parser.parse_args()
    table = Table("tests/faults/security.py" + (" --full" if asked.full else f" --seed {asked.seed}"))
    for name, part in PARTS.items():
        if asked.only not in (None, name):
            continue
        lab = Lab(asked.trimtab, asked.seed)
        lab.full = asked.full
        try:
            part(lab, table)
        except Failure as why:
            table.fail(name, why)
        finally:
            lab.close()
    return 1 if table.failures else 0


if __name__ == "__main__":
    sys.exit(main())
