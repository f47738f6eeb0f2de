"""Every bench of trimtab, its rows kept as JSON lines and shown as the tables of docs/performance.md.

docs/performance.jsonl has a line {"bench", "command", "machine", "rows"} a command. A table stands in
docs/performance.md between "<!-- BENCH -->" and "<!-- end -->"; what is there is replaced, for the
benches that were run. Text between tables is written by hand.
"""
import argparse
import json
import os
import re
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINES, PAGE = ROOT / "docs/performance.jsonl", ROOT / "docs/performance.md"

# Arguments of each run of a bench, by thread and rank numbers; others run once, as they are.
ONE, ALL = ["--threads", "1"], []
RUNS = {
    "kernels": [(1, ONE)],
    "gemm": [(1, ONE + ["--tokens", "512"]), (1, ONE + ["--tokens", "128"])],
    "step": [(1, ONE + ["--tokens", "512"]), (1, ONE + ["--tokens", "128"]),
             (1, ONE + ["--tokens", "512", "--bf16"]), (1, ONE + ["--tokens", "128", "--bf16"]),
             (1, ALL + ["--tokens", "512"])],
    "attention": [(1, ONE)],
    "passes": [(1, ONE)],
    "head": [(1, ONE)],
    "pipeline": [(2, ONE + ["--tokens", "512"]), (2, ONE + ["--tokens", "128"])],
    "cohort": [(2, ONE)],
    "wire": [(2, ONE)],
    "checkpoint": [(1, ONE), (2, ONE)],
    "load": [(1, ALL)],
    "tokenizer": [(1, ONE)],
}
# What was to be reached: bench, what its command matches, what a row's name matches, least ratio.
GOALS = [
    ("gemm", "--tokens 512$", r" both$", 0.88),
    ("gemm", "--tokens 128$", r" both$", 0.80),
    ("step", "--tokens 512$", r"\S+ step$", 0.80),
    ("step", "--tokens 128$", r"\S+ step$", 0.70),
    ("attention", "", r"4096", 0.60),
    ("cohort", "", r"together|cohort", 2.00),
]

# Rows of a table where not all are shown: of products those of whole layers. All are kept.
SHOWN = {"gemm": r"^((?!\dx\d).)*$", "step": r"step$|tokens$", "kernels": r"peak|read|gate, up"}


def machine():
    info = Path("/proc/cpuinfo").read_text()
    cpu = re.search(r"model name\s*: (.*)", info)
    return {"cpu": cpu[1] if cpu else os.uname().machine, "cores": os.cpu_count(),
            "date": time.strftime("%Y-%m-%d"), "load": round(os.getloadavg()[0], 1)}


def bench_names(program):
    said = subprocess.run([program, "bench", "none"], capture_output=True, text=True).stderr
    return re.search(r"expected one of ([\w, -]+)", said)[1].split(", ")


def run(program, bench, ranks, arguments, seconds):
    command = [program, "bench", bench, *arguments, "--seconds", str(seconds), "--json"]
    if ranks > 1:
        command = [ROOT / "tests/mpirun.sh", str(ranks), *command]
    print("...", *map(str, command), flush=True)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shown = (f"mpirun -n {ranks} " if ranks > 1 else "") + " ".join(
        ["trimtab bench", bench, *arguments])
    return {"bench": bench, "command": shown, "machine": machine(),
            "rows": [json.loads(line) for line in done.stdout.splitlines()]}


def goal(entry, row):
    for bench, arguments, name, ratio in GOALS:
        if entry["bench"] == bench and re.search(arguments, entry["command"]) and \
                row["limit"] > 0 and re.search(name, row["name"]):
            return f"{ratio:.2f}"
    return ""


def number(value):
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def table(entries):
    lines = []
    for entry in entries:
        m = entry["machine"]
        lines += [f"`{entry['command']}`, {m['cpu']}, {m['date']}, load {m['load']} at the end", "",
                  "| row | value | limit | ratio | goal |", "|---|---|---|---|---|"]
        for row in entry["rows"]:
            if not re.search(SHOWN.get(entry["bench"], ""), row["name"]):
                continue
            limit = number(row["limit"]) if row["limit"] else ""
            ratio = f"{row['ratio']:.2f}" if row["limit"] else ""
            lines.append(f"| {row['name']} | {number(row['value'])} {row['unit']} | {limit} | "
                         f"{ratio} | {goal(entry, row)} |")
        lines.append("")
    return "\n".join(lines)


def peers_entry(path):
    result = json.loads(Path(path).read_text())
    return {"bench": "peers", "command": "tests/peers/run.sh", "machine": result["machine"],
            "method": result["options"]["method"], "layers": result["options"]["layers"],
            "threads": result["options"]["threads"], "rows": result["rows"],
            "settings": {dtype: r["settings"] for dtype, r in result["results"].items()}}


def peers_table(entries):
    lines = []
    for entry in entries:
        m = entry["machine"]
        lines += [f"`{entry['command']}`, {entry['method']}, {entry['layers']} layers, "
                  f"{entry['threads']} threads; {m['cpu']}, {m['date']}, torch {m['torch']}", "",
                  "| examples | peer's way | trimtab | s an example | peer | s an example | "
                  "peer / trimtab | goal |", "|---|---|---|---|---|---|---|---|"]
        lines += [f"| {r['case']} | {r['peer']} | {r['trimtab_dtype']} | {r['trimtab_s']:.3f} | "
                  f"{r['peer_dtype']} | {r['peer_s']:.3f} | {r['ratio']:.2f} | {r['goal']} |"
                  for r in entry["rows"]]
        lines.append("")
        for dtype, s in entry["settings"].items():
            lines += [f"The peer's best settings in {dtype}: products by {s['products']}, allocator "
                      f"{s['allocator']}, {'bound' if s['bind'] else 'unbound'} threads, "
                      f"{'with' if s['compile'] else 'without'} torch.compile.", ""]
    return "\n".join(lines)


def put_tables(entries):
    page = PAGE.read_text()
    for bench in dict.fromkeys(e["bench"] for e in entries):
        mine = [e for e in entries if e["bench"] == bench]
        text = (peers_table if bench == "peers" else table)(mine).rstrip()
        pattern = re.compile(rf"(<!-- {bench} -->\n).*?(<!-- end -->)", re.S)
        if not pattern.search(page):
            raise SystemExit(f"{PAGE}: no place <!-- {bench} --> for its table")
        page = pattern.sub(lambda m: f"{m[1]}{text}\n{m[2]}", page)
    PAGE.write_text(page)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--program", default=str(ROOT / "build/release/trimtab"))
    p.add_argument("--seconds", type=float, default=1, help="spent on each row")
    p.add_argument("--only", action="append", help="this bench; may be given again; none: tables")
    p.add_argument("--peers", action="append", default=[],
                   help="what tests/peers/run.sh --json wrote; may be given again")
    options = p.parse_args()
    kept = [json.loads(line) for line in LINES.read_text().splitlines()] if LINES.exists() else []
    names = [n for n in bench_names(options.program) if not options.only or n in options.only]
    new = [run(options.program, bench, ranks, arguments, options.seconds)
           for bench in names for ranks, arguments in RUNS.get(bench, [(1, [])])]
    for path in options.peers:
        new.append(peers_entry(path))
    redone = {e["bench"] for e in new}
    entries = [e for e in kept if e["bench"] not in redone] + new
    LINES.write_text("".join(json.dumps(e) + "\n" for e in entries))
    put_tables(entries)


main()
