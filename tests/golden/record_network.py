#!/usr/bin/env python3
"""Records what Hugging Face transformers computes on small random Llama models.

    python record_network.py            writes tests/golden/network/<case>/

Versions are pinned in requirements.txt. Each case holds a model in Hugging Face format,
golden.json (sequences, methods, expected scalars and ids) and golden.safetensors (adapter values,
gradients, logits). The reference computes in fp32 (16-bit weights are widened when loaded), runs
each sequence on its own, and steers by a forward hook on the module whose output is the site's
tensor (the decoder layer itself, or one inside it). Read by
tests/golden/test_network.c; nothing here runs when the tests run.
"""

import json
import math
import pathlib
import re
import shutil

import torch
import transformers
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, get_linear_schedule_with_warmup

HERE = pathlib.Path(__file__).parent
OUT = HERE / "network"
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 32}

CASES = {
    # Grouped queries, heads wider than hidden / n_heads, tied, llama3 scaling: carries all methods.
    "gqa_tied": dict(
        layers=2, hidden=32, intermediate=56, heads=4, kv=2, head_dim=16, vocab=89, tied=True,
        bias=False, rope=LLAMA3, dtype="float32", full=True,
        clip=4.0),
    # Biases everywhere, untied, bf16 on disk, old spelling of the RoPE keys.
    "bias_bf16": dict(
        layers=3, hidden=64, intermediate=96, heads=4, kv=4, head_dim=16, vocab=120, tied=False,
        bias=True, rope=LLAMA3, dtype="bfloat16", old_rope_keys=True),
    # One key head for all queries, in shards, default RoPE.
    "sharded": dict(
        layers=2, hidden=48, intermediate=80, heads=6, kv=1, head_dim=8, vocab=101, tied=False,
        bias=False, rope={"rope_type": "default", "rope_theta": 500000.0}, dtype="float32",
        shard="64KB"),
    # A single layer in fp16, with one sequence longer than a block of attention.
    "one_f16": dict(
        layers=1, hidden=40, intermediate=64, heads=5, kv=5, head_dim=8, vocab=77, tied=True,
        bias=False, rope={"rope_type": "default", "rope_theta": 10000.0}, dtype="float16",
        long=150),
    # One small model for each site other than the layer's output, with biases on all products.
    "site_post_mlp": dict(
        layers=3, hidden=24, intermediate=40, heads=4, kv=2, head_dim=8, vocab=61, tied=True,
        bias=True, rope={"rope_type": "default", "rope_theta": 10000.0}, dtype="float32",
        site="post_mlp", clip=2.0),
    "site_mlp_input": dict(
        layers=3, hidden=24, intermediate=40, heads=4, kv=2, head_dim=8, vocab=61, tied=True,
        bias=True, rope={"rope_type": "default", "rope_theta": 10000.0}, dtype="float32",
        site="mlp_input", clip=2.0),
    "site_pre_mlp": dict(
        layers=3, hidden=24, intermediate=40, heads=4, kv=2, head_dim=8, vocab=61, tied=True,
        bias=True, rope={"rope_type": "default", "rope_theta": 10000.0}, dtype="float32",
        site="pre_mlp", clip=2.0),
}

# Where each site's tensor comes out of a module, and its word in tensor names.
SITES = {
    "post_block": (lambda layer: layer, "block"),
    "post_mlp": (lambda layer: layer.mlp, "mlp"),
    "mlp_input": (lambda layer: layer.post_attention_layernorm, "attn"),
    "pre_mlp": (lambda layer: layer.self_attn, "pre_mlp"),
}

ACTIVATIONS = {
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "relu": torch.nn.functional.relu,
    "tanh": torch.tanh,
}


def method(form, rank=4, bias=False, activation="silu", scale=1.0, positions="all", layers="all"):
    return dict(form=form, rank=rank, bias=bias, activation=activation, scale=scale,
                positions=positions, layers=layers)


def at_site(m, site):
    return m if site == "post_block" else dict(m, site=site)


def all_methods():
    forms = [method("vector"), method("linear", scale=0.7), method("linear", bias=True, rank=3)]
    forms += [method("nonlinear", activation=a) for a in ACTIVATIONS]
    forms += [method("nonlinear", bias=True, scale=1.3, rank=1)]
    return [dict(f, positions=p) for f in forms for p in ("all", "last", "f1+l1")]


def some_methods(n_layers, site="post_block"):
    out = [method("vector", positions="f2+l3"), method("linear", bias=True, positions="all"),
           method("nonlinear", rank=8, positions="all"),
           method("nonlinear", activation="gelu", positions="last")]
    if n_layers > 1:
        out += [method("nonlinear", layers="-1"), method("linear", layers="0", positions="f1+l1")]
    if n_layers > 2:
        out += [method("nonlinear", layers="0,2", bias=True), method("vector", layers="1-2")]
    return [at_site(m, site) for m in out]


def chosen_layers(text, n_layers):
    if text == "all":
        return list(range(n_layers))
    out = []
    for part in text.split(","):
        if "-" in part[1:]:
            first, last = part.split("-")
            out += range(int(first), int(last) + 1)
        else:
            out.append(int(part) % n_layers)
    return sorted(out)


def make_model(case, rng):
    c = case
    config = LlamaConfig(
        num_hidden_layers=c["layers"], hidden_size=c["hidden"],
        intermediate_size=c["intermediate"], num_attention_heads=c["heads"],
        num_key_value_heads=c["kv"], head_dim=c["head_dim"], vocab_size=c["vocab"],
        tie_word_embeddings=c["tied"], attention_bias=c["bias"], mlp_bias=c["bias"],
        rope_parameters=c["rope"], max_position_embeddings=256, rms_norm_eps=1e-5,
        bos_token_id=1, eos_token_id=2)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            x = torch.randn(p.shape, generator=rng)
            if "norm" in name:
                p.copy_(1 + 0.2 * x)
            elif p.dim() == 1:
                p.copy_(0.2 * x)
            elif "embed" in name:
                p.copy_(0.5 * x)
            else:
                p.copy_(1.2 * x / math.sqrt(p.shape[1]))
    return model.to(getattr(torch, c["dtype"]))


def save_model(model, case, where):
    model.save_pretrained(where, max_shard_size=case.get("shard", "5GB"))
    if case.get("old_rope_keys"):
        path = where / "config.json"
        config = json.loads(path.read_text())
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = rope
        path.write_text(json.dumps(config, indent=2) + "\n")


class Steering:
    """Adapter tensors by their names in the file, and the hooks that apply them."""

    def __init__(self, m, config, rng, zero=False):
        self.m = m
        self.module, self.word = SITES[m.get("site", "post_block")]
        self.tensors = {}
        h, r = config.hidden_size, m["rank"]
        for layer in chosen_layers(m["layers"], config.num_hidden_layers):
            if m["form"] == "vector":
                self.add(f"deltas.layer{layer}_{self.word}", 0.3 * torch.randn(h, generator=rng))
                continue
            stem = f"adapters.layer{layer}_{self.word}."
            self.add(stem + "down.weight", torch.randn(r, h, generator=rng) / math.sqrt(h))
            self.add(stem + "up.weight", 0.5 * torch.randn(h, r, generator=rng))
            if m["bias"]:
                self.add(stem + "bias", 0.2 * torch.randn(h, generator=rng))
        self.mask = None  # rows that are steered in the next forward

    def add(self, name, value):
        self.tensors[name] = value.detach().clone().requires_grad_(True)

    def shift(self, layer, h):
        m, t = self.m, self.tensors
        if m["form"] == "vector":
            return t[f"deltas.layer{layer}_{self.word}"].expand_as(h)
        stem = f"adapters.layer{layer}_{self.word}."
        z = h @ t[stem + "down.weight"].T
        if m["form"] == "nonlinear":
            z = ACTIVATIONS[m["activation"]](z)
        out = m["scale"] * (z @ t[stem + "up.weight"].T)
        return out + t[stem + "bias"] if m["bias"] else out

    def attach(self, model):
        def hook(layer):
            def run(module, args, output):
                h = output[0] if isinstance(output, tuple) else output
                steered = h + self.shift(layer, h) * self.mask[None, :, None]
                return (steered, *output[1:]) if isinstance(output, tuple) else steered
            return run

        layers = chosen_layers(self.m["layers"], model.config.num_hidden_layers)
        return [self.module(model.model.layers[i]).register_forward_hook(hook(i)) for i in layers]

    def set_mask(self, past, n_new, prompt_len):
        kind = self.m["positions"]
        rows = []
        for p in range(past, past + n_new):
            if kind == "all":
                rows.append(1.0)
            elif p >= prompt_len:
                rows.append(0.0)
            elif kind == "last":
                rows.append(float(p == prompt_len - 1))
            else:
                first, last = (int(x[1:]) for x in kind.split("+"))
                rows.append(float(p < first or p >= prompt_len - last))
        self.mask = torch.tensor(rows)


def run_sequence(model, steering, seq):
    if steering:
        steering.set_mask(0, len(seq["ids"]), seq["prompt_len"])
    return model(torch.tensor([seq["ids"]]), use_cache=False).logits[0]


def batch_loss(model, steering, seqs):
    """Cross-entropy averaged over the supervised tokens of all sequences."""
    total, count = 0.0, 0
    for seq in seqs:
        logits = run_sequence(model, steering, seq)
        first = seq["prompt_len"]
        targets = torch.tensor(seq["ids"][first:])
        rows = logits[first - 1:len(seq["ids"]) - 1]
        total = total + torch.nn.functional.cross_entropy(rows, targets, reduction="sum")
        count += len(targets)
    return total / count


def greedy(model, steering, prompt, n_new):
    ids, cache, margin = list(prompt), None, math.inf
    step = ids
    for _ in range(n_new):
        past = len(ids) - len(step)
        if steering:
            steering.set_mask(past, len(step), len(prompt))
        with torch.no_grad():
            out = model(torch.tensor([step]), past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        top = torch.topk(out.logits[0, -1], 2)
        margin = min(margin, float(top.values[0] - top.values[1]))
        step = [int(top.indices[0])]
        ids += step
    return ids[len(prompt):], margin


def sequences(rng, n, vocab, longest):
    out = []
    for _ in range(n):
        length = int(torch.randint(4, longest + 1, (1,), generator=rng))
        prompt = int(torch.randint(1, length, (1,), generator=rng))
        ids = torch.randint(0, vocab, (length,), generator=rng).tolist()
        out.append({"ids": ids, "prompt_len": prompt})
    return out


def record_variant(model, name, m, seqs, rng, tensors, with_logits):
    steering = Steering(m, model.config, rng)
    hooks = steering.attach(model)
    loss = batch_loss(model, steering, seqs)
    loss.backward()
    for key, p in steering.tensors.items():
        assert p.grad.abs().max() > 0, f"{name}: {key} has no gradient"
        tensors[f"{name}.param.{key}"] = p.detach().clone()
        tensors[f"{name}.grad.{key}"] = p.grad.clone()
    if with_logits:
        with torch.no_grad():
            logits = [run_sequence(model, steering, s) for s in seqs]
        tensors[f"{name}.logits"] = torch.cat(logits)
    for h in hooks:
        h.remove()
    return {"name": name, "method": m, "loss": float(loss.detach()), "logits": with_logits}


def record_training(model, m, clip, rng, tensors):
    """Five AdamW steps; each step's batch is the next sequences."""
    steps, lr, warmup, decay, per_step = 5, 0.01, 0.3, 0.02, 4
    data = sequences(rng, steps * per_step, model.config.vocab_size, 20)
    steering = Steering(m, model.config, rng)
    hooks = steering.attach(model)
    params = list(steering.tensors.values())
    for key, p in steering.tensors.items():
        tensors[f"train.param.{key}"] = p.detach().clone()
    optimiser = torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=decay)
    schedule = get_linear_schedule_with_warmup(optimiser, math.ceil(warmup * steps), steps)
    losses, norms = [], []
    for step in range(steps):
        optimiser.zero_grad()
        loss = batch_loss(model, steering, data[step * per_step:(step + 1) * per_step])
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(params, clip)))
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
    for key, p in steering.tensors.items():
        tensors[f"train.final.{key}"] = p.detach().clone()
    for h in hooks:
        h.remove()
    return dict(method=m, lr=lr, warmup_ratio=warmup, weight_decay=decay, clip=clip,
                per_step=per_step, sequences=data, losses=losses, norms=norms)


def record_generation(model, variants, candidates, n_prompts, n_new, tensors):
    """Greedy ids for the first prompts whose every step is decided by more than rounding."""
    runs, clear = [], [math.inf] * len(candidates)
    for variant in [None] + variants:
        steering, hooks = None, []
        if variant:
            steering = Steering(variant["method"], model.config, torch.Generator())
            with torch.no_grad():
                for key, p in steering.tensors.items():
                    p.copy_(tensors[f"{variant['name']}.param.{key}"])
            hooks = steering.attach(model)
        rows, margins = zip(*(greedy(model, steering, p, n_new) for p in candidates))
        for h in hooks:
            h.remove()
        clear = [min(a, b) for a, b in zip(clear, margins)]
        runs.append((variant["name"] if variant else None, rows))
    chosen = [i for i, margin in enumerate(clear) if margin > 5e-4][:n_prompts]
    assert len(chosen) == n_prompts, f"near ties: {clear}"
    return {"prompts": [candidates[i] for i in chosen],
            "runs": [{"variant": name, "ids": [rows[i] for i in chosen]} for name, rows in runs]}


def dump(golden):
    """JSON with one sequence, variant or run a line."""
    lists = re.compile(r"\[\s+([-+.e\d,\s]+?)\s+\]")
    return lists.sub(lambda m: "[" + " ".join(m.group(1).split()) + "]",
                     json.dumps(golden, indent=1))


def record(name, case, seed):
    rng = torch.Generator().manual_seed(seed)
    where = OUT / name
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir(parents=True)
    save_model(make_model(case, rng), case, where)
    model = LlamaForCausalLM.from_pretrained(where, dtype=torch.float32,
                                             attn_implementation="eager").eval()
    model.requires_grad_(False)

    tensors = {}
    seqs = sequences(rng, 4, case["vocab"], 12)
    if "long" in case:
        ids = torch.randint(0, case["vocab"], (case["long"],), generator=rng).tolist()
        seqs.append({"ids": ids, "prompt_len": case["long"] // 3})
    with torch.no_grad():
        tensors["base.logits"] = torch.cat([run_sequence(model, None, s) for s in seqs])
        base_loss = float(batch_loss(model, None, seqs))
    methods = all_methods() if case.get("full") else []
    site = case.get("site", "post_block")
    methods += some_methods(case["layers"], site)
    variants = [record_variant(model, f"v{i}", m, seqs, rng, tensors, i % 8 == 2)
                for i, m in enumerate(methods)]
    trained = at_site(method("nonlinear", rank=4, bias=True), site)
    train = record_training(model, trained, case.get("clip", 1.0), rng, tensors)
    prompts = [s["ids"][:max(2, s["prompt_len"])] for s in sequences(rng, 24, case["vocab"], 12)]
    picked = [v for v in variants if v["method"]["form"] != "vector"][:4]
    generation = record_generation(model, picked, prompts, 3, 30, tensors)
    golden = dict(sequences=seqs, base_loss=base_loss, variants=variants, train=train,
                  generation=generation)
    for path in where.iterdir():
        path.chmod(0o644)
    (where / "golden.json").write_text(dump(golden) + "\n")
    save_file({k: v.float().contiguous() for k, v in tensors.items()}, where / "golden.safetensors")
    (where / "golden.safetensors").chmod(0o644)
    print(name, "loss", base_loss, "norms", [round(n, 3) for n in train["norms"]],
          sum(f.stat().st_size for f in where.iterdir()) // 1024, "KB")


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    for seed, (case_name, case) in enumerate(CASES.items()):
        record(case_name, case, 100 + seed)
