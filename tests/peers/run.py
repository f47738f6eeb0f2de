"""trimtab and PyTorch train the same method on the same model and examples, in turns, in one run.

The model has Llama-3.2-1B's shapes and random weights; the examples are random letters, a token
each. Three cases: "dense", sequences of 512 tokens, all supervised; "short", questions of 140 tokens
in the mean with 4 supervised; "prefix", the same with the first 64 tokens in common.

First, on a model of few layers, both sides train three steps in fp32 from the same adapter and must
have the same losses; then the peer is tuned there for each dtype: what multiplies, allocator, binding,
compilation. Then both sides take turns on the whole model; its first losses must agree as well. What
counts is the best step of each, without start-up. Prints a table and writes JSON.
"""
import argparse
import ctypes.util
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
LAYERS, HIDDEN, INTERMEDIATE, VOCAB, HEADS, KV_HEADS, HEAD_DIM = 16, 2048, 8192, 128256, 32, 8, 64
DENSE_LENGTH, SHORT_TARGETS, PREFIX = 512, 4, 64
LENGTHS = (72, 96, 112, 128, 144, 160, 184, 224)  # of a short example, 140 in the mean
LR = 0.01  # and D begins large: the losses of the check must depend on what is trained
GOALS = {"dense": 1.2, "short, padded": 2.6, "short": 1.45}
METHODS = {
    "steering": 'method: { form = "nonlinear"; rank = 8; init_scale = 1.0; };',
    "lora": 'lora: { targets = "q,v"; rank = 8; alpha = 8.0; };',
}


def log(*words):
    print(time.strftime("%H:%M:%S"), *words, flush=True)


# --- Model and data ---------------------------------------------------------------------------

def make_weights(path, layers):
    """Each matrix is cut from the same random numbers, at another place."""
    pool = torch.randn(1 << 24, generator=torch.Generator().manual_seed(1)).mul(0.02)
    pool, draw = pool.to(torch.bfloat16), random.Random(1)

    def matrix(rows, cols):
        numbers = torch.roll(pool, draw.randrange(len(pool)))
        times = -(-rows * cols // len(numbers))
        return numbers.repeat(times)[:rows * cols].reshape(rows, cols).clone()

    kv = KV_HEADS * HEAD_DIM
    shapes = {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (kv, HIDDEN),
              "self_attn.v_proj": (kv, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
              "mlp.gate_proj": (INTERMEDIATE, HIDDEN), "mlp.up_proj": (INTERMEDIATE, HIDDEN),
              "mlp.down_proj": (HIDDEN, INTERMEDIATE)}
    tensors = {"model.embed_tokens.weight": matrix(VOCAB, HIDDEN),
               "model.norm.weight": torch.ones(HIDDEN, dtype=torch.bfloat16)}
    for layer in range(layers):
        at = f"model.layers.{layer}."
        for name, (rows, cols) in shapes.items():
            tensors[f"{at}{name}.weight"] = matrix(rows, cols)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{at}{name}.weight"] = torch.ones(HIDDEN, dtype=torch.bfloat16)
    save_file(tensors, path)


def letters():
    """The byte-level alphabet: every byte is a character, and a token."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    chars = {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(others)}
    return {chars[b]: b for b in range(256)}


def make_model(directory, layers):
    directory.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
              "intermediate_size": INTERMEDIATE, "num_hidden_layers": layers,
              "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
              "hidden_act": "silu", "rms_norm_eps": 1e-5, "vocab_size": VOCAB,
              "max_position_embeddings": 131072, "tie_word_embeddings": True,
              "attention_bias": False, "mlp_bias": False, "rope_theta": 500000.0,
              "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
              "bos_token_id": None, "eos_token_id": None, "torch_dtype": "bfloat16"}
    (directory / "config.json").write_text(json.dumps(config))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": True}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
                 "normalizer": None, "pre_tokenizer": byte_level, "post_processor": None,
                 "decoder": byte_level,
                 "model": {"type": "BPE", "dropout": None, "unk_token": None,
                           "continuing_subword_prefix": None, "end_of_word_suffix": None,
                           "fuse_unk": False, "byte_fallback": False, "vocab": letters(),
                           "merges": []}}
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    make_weights(directory / "model.safetensors", layers)


def make_examples(scale):
    """{case: [(prompt, answer)]}, texts of one token a letter."""
    draw = random.Random(1)

    def text(n):
        return "".join(draw.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(n))

    prefix = text(PREFIX)
    lengths = LENGTHS * scale
    return {"dense": [(text(1), text(DENSE_LENGTH - 1)) for _ in range(scale)],
            "short": [(text(n - SHORT_TARGETS), text(SHORT_TARGETS)) for n in lengths],
            "prefix": [(prefix + text(n - SHORT_TARGETS - PREFIX), text(SHORT_TARGETS))
                       for n in lengths]}


def write_examples(directory, cases):
    for case, examples in cases.items():
        rows = [json.dumps({"prompt": p, "answer": a}) for p, a in examples]
        (directory / f"{case}.jsonl").write_text("\n".join(rows) + "\n")
    (directory / "data.json").write_text(json.dumps(
        {case: [{"ids": list((p + a).encode()), "prompt": len(p)} for p, a in examples]
         for case, examples in cases.items()}))
    (directory / "task.cfg").write_text('prompt = "{prompt}";\ncompletion = "{answer}";\n'
                                        f'max_length = {DENSE_LENGTH};\ntruncation = "error";\n')


# --- The two sides ----------------------------------------------------------------------------

class Trimtab:
    def __init__(self, options, scratch, model, n_examples):
        self.program, self.threads, self.method = options.trimtab, options.threads, options.method
        self.scratch, self.model, self.n_examples = scratch, model, n_examples

    def run(self, case, steps, settings=(), lr=LR):
        """Rows of metrics.jsonl, or the line in which the job was refused."""
        run = Path(tempfile.mkdtemp(prefix="run.", dir=self.scratch))
        job = self.scratch / "job.cfg"
        job.write_text(
            f'run: {{ dir = "{run}"; }};\nmodel: {{ path = "{self.model}"; }};\n'
            f'task: {{ file = "{self.scratch / "task.cfg"}"; '
            f'train = "{self.scratch / case}.jsonl"; }};\n{METHODS[self.method]}\n'
            f'train: {{ steps = {steps}; batch_size = {self.n_examples[case]}; lr = {lr}; '
            'schedule = "constant"; warmup_ratio = 0.0; };\n'
            f'parallel: {{ threads = {self.threads}; }};\n'
            'checkpoint: { every = 0; };\neval: { before = false; after = false; };\n'
            'log: { every = 1; quiet = true; };\n')
        command = [self.program, "train", str(job)]
        for setting in settings:
            command += ["--set", setting]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return None, done.stderr.strip()
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [row for row in rows if row["kind"] == "train"], run

    def adapter(self, case):
        """The adapter that a run begins with."""
        rows, run = self.run(case, 1, lr=0.0)
        if rows is None:
            sys.exit(f"trimtab: {run}")
        return next(run.glob("checkpoints/*/adapter.safetensors"))

    def measure(self, case, steps, settings=()):
        """Seconds of steps but the first, which meets cold pages; losses of all."""
        rows, why = self.run(case, steps + 1, settings)
        if rows is None:
            return {"refused": why}
        times = [row["elapsed_s"] for row in rows]
        return {"seconds": [b - a for a, b in zip(times, times[1:])],
                "losses": [row["loss"] for row in rows]}


ALLOCATORS = {
    "glibc": {},
    # keeps what is freed: no page faults from step to step
    "glibc, keeping": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 36),
                       "MALLOC_TOP_PAD_": str(1 << 26)},
    "tcmalloc": {"LD_PRELOAD": "tcmalloc_minimal"},
    "jemalloc": {"LD_PRELOAD": "jemalloc",
                 "MALLOC_CONF": "dirty_decay_ms:-1,muzzy_decay_ms:-1,metadata_thp:auto"},
}


def allocator_environment(name):
    """None: not on this machine."""
    environment = dict(ALLOCATORS[name])
    if "LD_PRELOAD" in environment:
        library = ctypes.util.find_library(environment["LD_PRELOAD"])
        if not library:
            return None
        environment["LD_PRELOAD"] = library
    return environment


class Peer:
    def __init__(self, job, settings):
        environment = dict(os.environ, OMP_NUM_THREADS=str(job["threads"]),
                           TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1",
                           **allocator_environment(settings["allocator"]))
        if settings["bind"]:
            environment |= {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}
        job = dict(job, products=settings["products"], compile=settings["compile"])
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([sys.executable, HERE / "peer.py", json.dumps(job)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.errors, text=True, env=environment)
        self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            raise RuntimeError(self.errors.read()[-2000:])
        return json.loads(line)

    def run(self, case, way, steps, fresh=False):
        wish = {"case": case, "way": way, "steps": steps, "fresh": fresh}
        self.process.stdin.write(json.dumps(wish) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


# --- The same thing on both sides -------------------------------------------------------------

PLAIN = {"products": "torch", "compile": False, "allocator": "glibc", "bind": False}


def compare_losses(ours, theirs, tolerance):
    for mine, its in zip(ours, theirs):
        if abs(mine - its) > tolerance * abs(mine):
            sys.exit(f"losses differ: {mine} and {its}: the two do not compute the same")


def check_same(trimtab, job, settings, steps):
    """Both sides from the same adapter: losses of a few steps, and the first of every way."""
    job = dict(job, dtype="fp32")
    if trimtab.method == "steering":
        job["adapter"] = str(trimtab.adapter("short"))
    else:
        steps = 1  # LoRA begins with another random A on each side, whose product is zero all the same
    ours = trimtab.measure("short", steps - 1)["losses"]
    peer = Peer(job, settings)
    for way in ("packed", "single", "padded"):
        theirs = peer.run("short", way, steps if way == "packed" else 1, fresh=True)["losses"]
        log(f"check: losses of trimtab {ours}, of the peer ({way}) {theirs}")
        compare_losses(ours, theirs, 1e-3)
    peer.close()


# --- Tuning -----------------------------------------------------------------------------------

def better_way(result):
    return min(("single", "packed"), key=lambda way: result[f"short {way}"])


def try_settings(job, settings, steps):
    """Seconds of a step of dense and one of short examples, in the better way, and all that was
    measured; None when the settings do not work here."""
    result = {}
    try:
        peer = Peer(job, settings)
        for case, way in (("dense", "packed"), ("short", "single"), ("short", "packed")):
            times = peer.run(case, way, steps + 1)["seconds"]
            result[f"{case} {way}"] = min(times[1:])
        peer.close()
    except RuntimeError as error:
        log("   ", settings, "does not work:", str(error).strip().splitlines()[-1:])
        return None, None
    score = result["dense packed"] + result[f"short {better_way(result)}"]
    log("   ", settings, {k: round(v, 3) for k, v in result.items()})
    return score, result


def tune(job, options):
    """One setting after the other, each kept when it is faster."""
    if options.no_tune:
        return dict(PLAIN, products="onednn"), "packed", []
    kinds = ("torch", "medium", "onednn") if job["dtype"] == "fp32" else ("torch", "onednn")
    changes = [{"products": kind} for kind in kinds]
    changes += [{"allocator": name} for name in ALLOCATORS
                if name != "glibc" and allocator_environment(name) is not None]
    changes += [{"bind": True}]
    changes += [{"compile": True}] if not options.no_compile else []
    best, best_score, best_result, tried = dict(PLAIN), None, None, []
    for change in changes:
        settings = dict(best, **change)
        score, result = try_settings(job, settings, options.steps)
        tried.append({"settings": settings, "seconds": result})
        if score is not None and (best_score is None or score < best_score):
            best, best_score, best_result = settings, score, result
    return best, better_way(best_result), tried


# --- The run ----------------------------------------------------------------------------------

def take_turns(sides, turns):
    """sides: {name: function that returns {"seconds": [...]} or {"refused": why}}."""
    seconds, losses, refused = {name: [] for name in sides}, {}, {}
    for turn in range(turns):
        for name, run in sides.items():
            if name in refused:
                continue
            result = run()
            if "refused" in result:
                refused[name] = result["refused"]
                log(f"  {name}: {result['refused']}")
                continue
            seconds[name] += result["seconds"]
            losses.setdefault(name, result["losses"])
            log(f"  turn {turn + 1}: {name}: {[round(s, 2) for s in result['seconds']]}")
    return {name: times for name, times in seconds.items() if times}, losses, refused


def measure_dtype(options, trimtab, job, dtype, tuned):
    settings, way, tried = tuned
    peer = Peer(dict(job, dtype=dtype), settings)
    products = ["compute.products=bf16"] if dtype == "bf16" else []
    share = ["parallel.share_prefix=true"]
    steps = options.steps
    # cold pages and compilation are over before the first turn
    first = {case: peer.run(case, how, 1, fresh=True)["losses"]
             for case, how in (("dense", "packed"), ("short", "padded"), ("short", way))}
    sides = {
        "trimtab dense": lambda: trimtab.measure("dense", steps, products),
        "peer dense": lambda: peer.run("dense", "packed", steps),
        "trimtab short": lambda: trimtab.measure("short", steps, products),
        "peer short": lambda: peer.run("short", way, steps),
        "peer short, padded": lambda: peer.run("short", "padded", 1),
        "trimtab prefix": lambda: trimtab.measure("prefix", steps, products + share),
    }
    seconds, losses, refused = take_turns(sides, options.turns)
    peer.close()
    for case in first:
        compare_losses(losses.get(f"trimtab {case}", [])[:1], first[case],
                       1e-3 if dtype == "fp32" else 3e-2)
    return {"settings": settings, "short": way, "tried": tried, "seconds": seconds,
            "losses": losses, "first_losses_of_peer": first, "refused": refused}


def compare(results, n_examples):
    """Rows: case, what trimtab computes in, what the peer does, seconds an example, ratio, goal."""
    rows = []

    def best(dtype, name):
        times = results.get(dtype, {}).get("seconds", {}).get(name)
        return min(times) / n_examples[name.split()[1].rstrip(",")] if times else None

    for ours in results:
        for case, against in (("dense", "dense"), ("short", "short, padded"), ("short", "short"),
                              ("prefix", "short")):
            mine = best(ours, f"trimtab {case}")
            theirs = {dtype: best(dtype, f"peer {against}")
                      for dtype in (["fp32"] if ours == "fp32" else results)}
            theirs = {dtype: s for dtype, s in theirs.items() if s}
            if mine is None or not theirs:
                continue
            dtype = min(theirs, key=theirs.get)
            rows.append({"case": case, "peer": against, "trimtab_dtype": ours, "peer_dtype": dtype,
                         "trimtab_s": mine, "peer_s": theirs[dtype], "ratio": theirs[dtype] / mine,
                         "goal": GOALS[against]})
    return rows


def describe_machine():
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo")
                  if line.startswith("model name")), platform.machine())
    return {"cpu": model, "cores": os.cpu_count(), "date": time.strftime("%Y-%m-%d"),
            "torch": torch.__version__, "load": os.getloadavg()[0]}


def print_table(machine, method, rows):
    print(f"\n{machine['cpu']}, {machine['cores']} cores, {machine['date']}, torch "
          f"{machine['torch']}, {method}; load at the start {machine['load']:.1f}\n")
    print("| examples | peer's way | trimtab | s/example | peer | s/example | peer / trimtab | goal |")
    print("|---|---|---|---|---|---|---|---|")
    for r in rows:
        print(f"| {r['case']} | {r['peer']} | {r['trimtab_dtype']} | {r['trimtab_s']:.3f} | "
              f"{r['peer_dtype']} | {r['peer_s']:.3f} | **{r['ratio']:.2f}** | {r['goal']} |")


def parse():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--trimtab", default="build/release/trimtab")
    p.add_argument("--layers", type=int, default=LAYERS)
    p.add_argument("--tune-layers", type=int, default=2)
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--dtypes", default="fp32,bf16")
    p.add_argument("--method", choices=METHODS, default="steering")
    p.add_argument("--steps", type=int, default=2, help="of a turn that count")
    p.add_argument("--turns", type=int, default=2)
    p.add_argument("--scale", type=int, default=1, help="times 1 dense and 8 short examples a step")
    p.add_argument("--no-compile", action="store_true", help="do not try torch.compile")
    p.add_argument("--no-tune", action="store_true", help="the peer with oneDNN's products, no more")
    p.add_argument("--quick", action="store_true", help="2 layers, one turn of a step, no tuning")
    p.add_argument("--scratch", default=None, help="where 2.5 GB of model go; removed afterwards")
    p.add_argument("--json", default=None, help="file for all numbers")
    options = p.parse_args()
    if options.quick:
        options.layers, options.tune_layers = 2, 1
        options.steps, options.turns, options.no_tune = 1, 1, True
    options.tune_layers = min(options.tune_layers, options.layers)
    return options


def main():
    options, machine = parse(), describe_machine()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit("ended by a signal"))
    scratch = Path(tempfile.mkdtemp(prefix="trimtab-peers.", dir=options.scratch))
    try:
        needed = ((options.layers + options.tune_layers) * 122 + 2 * 526) * 10**6 * 5 // 4
        if shutil.disk_usage(scratch).free < needed:
            sys.exit(f"{scratch}: {needed >> 20} MiB are needed")
        log(f"models of {options.tune_layers} and {options.layers} layers in {scratch}")
        cases = make_examples(options.scale)
        write_examples(scratch, cases)
        n_examples = {case: len(examples) for case, examples in cases.items()}
        for name, layers in (("small", options.tune_layers), ("whole", options.layers)):
            make_model(scratch / name, layers)
        job = {"data": str(scratch / "data.json"), "threads": options.threads,
               "method": options.method, "lr": LR}
        small, whole = (dict(job, model=str(scratch / name)) for name in ("small", "whole"))
        check_same(Trimtab(options, scratch, small["model"], n_examples), small,
                   dict(PLAIN, products="onednn"), 3)
        trimtab = Trimtab(options, scratch, whole["model"], n_examples)
        results = {}
        for dtype in options.dtypes.split(","):
            log(f"{dtype}: tuning the peer on {options.tune_layers} layers")
            tuned = tune(dict(small, dtype=dtype), options)
            log(f"{dtype}: {tuned[0]}, short examples {tuned[1]}")
            results[dtype] = measure_dtype(options, trimtab, whole, dtype, tuned)
    finally:
        shutil.rmtree(scratch)
    rows = compare(results, n_examples)
    print_table(machine, options.method, rows)
    if options.json:
        Path(options.json).write_text(json.dumps(
            {"machine": machine, "options": vars(options), "rows": rows, "results": results},
            indent=1))


main()
