"""What all fault tests share: how they say what became of a fault, and what is in a run's directory."""
import json
import pathlib
import re
import subprocess

SOURCE = pathlib.Path(__file__).resolve().parents[2]


class Failure(Exception):
    pass


class Table:
    """Rows of docs/reliability.md; what fails is told at once."""

    def __init__(self, command):
        self.command, self.failures = command, 0

    def row(self, fault, tried, what):
        print(f"| {fault} | {tried} | {what} | `{self.command}` |", flush=True)

    def fail(self, fault, why):
        self.failures += 1
        print(f"FAILED: {fault}: {why}", flush=True)


def make_data(trimtab, work, held_out="eval.jsonl", n=4):
    """A small data set, the same each time."""
    subprocess.run([trimtab, "data", "listops", "--train", "train.jsonl", "--n-train", "24", "--eval",
                    held_out, "--n-eval", str(n), "--max-depth", "2", "--max-args", "3",
                    "--max-length", "16", "--seed", "7"], cwd=work, check=True,
                   stdout=subprocess.DEVNULL)


def build_shim(library):
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE / "tests/faults/shim.c",
                    "-ldl"], check=True)


def checkpoints(run):
    """Oldest life first, then by step."""
    found = [(int(m[2]), int(m[1]), p) for p in (run / "checkpoints").glob("step-*")
             if (m := re.fullmatch(r"step-(\d{10,})\.g(\d{6,})", p.name))]
    return [p for _, _, p in sorted(found)]


def newest_checkpoint(run):
    found = checkpoints(run)
    return found[-1] if found else None


def step_of(checkpoint):
    return int(checkpoint.name[5:15])


def newest_life(run):
    return max((int(p.name) for p in (run / "generations").glob("*") if p.name.isdigit()), default=0)


def rows_of(run):
    """Of metrics.jsonl; a fault may have torn a row."""
    rows, path = [], run / "metrics.jsonl"
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            pass
    return rows


def train_rows(run):
    return [row for row in rows_of(run) if row.get("kind") == "train"]
