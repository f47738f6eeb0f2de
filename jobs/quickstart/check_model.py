#!/usr/bin/env python3
"""Steer the quickstart model with PyTorch: what the C quickstart should reach.

Post-block steering, h' = h + U silu(D h), on every layer of the frozen model;
prints held-out loss and exact match before and after.

    python check_model.py model
"""
import argparse
import math
import random
import re
import time

import torch
import torch.nn.functional as F
from make_model import random_list
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPT = ("Evaluate the value of the following nested list expression.\n"
          "Return only the final numeric result inside <answer>…</answer>.\n\nExpression:\n{}\n")


def examples(rng, count, args, taken):
    """Distinct lists, none of them in `taken`: (prompt, value, height)."""
    made = []
    while len(made) < count:
        one = random_list(rng, args.height, args.nest, args.most)
        text = one.render()
        if args.least <= one.size <= args.size and text not in taken:
            taken.add(text)
            made.append((PROMPT.format(text), one.value, one.height))
    return made


def batch(tok, rows):
    pairs = [(tok(p)["input_ids"], tok(f"<answer>{v}</answer>", add_special_tokens=False)["input_ids"])
             for p, v, _ in rows]
    width = max(len(p) + len(c) for p, c in pairs)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for i, (p, c) in enumerate(pairs):
        ids[i, :len(p) + len(c)] = torch.tensor(p + c)
        labels[i, len(p):len(p) + len(c)] = torch.tensor(c)
    return ids, labels


def loss_of(model, ids, labels):
    logits = model(input_ids=ids).logits[:, :-1]
    wanted = labels[:, 1:] >= 0
    return F.cross_entropy(logits[wanted], labels[:, 1:][wanted])


@torch.no_grad()
def evaluate(model, tok, rows):
    """(loss, exact match, exact match by height, some outputs), greedy decoding."""
    right, outputs, total = {}, [], 0.0
    by_length = {}
    for row in rows:
        by_length.setdefault(len(tok(row[0])["input_ids"]), []).append(row)
    for same in by_length.values():
        ids, labels = batch(tok, same)
        total += loss_of(model, ids, labels).item() * len(same)
        prompt = torch.tensor([tok(p)["input_ids"] for p, _, _ in same])
        made = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=10,
                              do_sample=False, pad_token_id=tok.eos_token_id)
        for (_, value, height), new in zip(same, made[:, prompt.shape[1]:]):
            text = tok.decode(new)
            found = re.search(r"<answer>(.*?)</answer>", text, re.S)
            right.setdefault(height, []).append(found is not None and found[1].strip() == str(value))
            outputs.append(text)
    flat = [r for rs in right.values() for r in rs]
    return (total / len(rows), sum(flat) / len(flat),
            {h: round(sum(r) / len(r), 3) for h, r in sorted(right.items())}, outputs)


def attach(model, rank):
    """Adapters on every block; returns their parameters."""
    hidden, params = model.config.hidden_size, []
    for layer in model.model.layers:
        down = torch.nn.Parameter(torch.empty(rank, hidden))
        torch.nn.init.kaiming_uniform_(down, a=math.sqrt(5))
        down.data *= 1e-3
        up = torch.nn.Parameter(torch.zeros(hidden, rank))
        params += [down, up]
        layer.register_forward_hook(
            lambda _m, _i, h, d=down, u=up: h + F.silu(h @ d.T) @ u.T)
    return params


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--train", type=int, default=6000)
    parser.add_argument("--test", type=int, default=500)
    parser.add_argument("--height", type=int, default=3)
    parser.add_argument("--most", type=int, default=4, help="arguments of a list")
    parser.add_argument("--nest", type=float, default=0.25)
    parser.add_argument("--least", type=int, default=4)
    parser.add_argument("--size", type=int, default=40, help="tokens of a list")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=32)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng, taken = random.Random(args.seed), set()
    tok = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    model.requires_grad_(False)
    test = examples(rng, args.test, args, taken)
    data = examples(rng, args.train, args, taken)
    loss, exact, heights, outputs = evaluate(model, tok, test)
    print(f"frozen  loss {loss:.4f} exact {exact:.3f} {heights} {outputs[:6]}", flush=True)
    params = attach(model, args.rank)
    optimizer = torch.optim.AdamW(params, lr=args.lr, weight_decay=0.0)
    warm = max(1, args.steps * 3 // 100)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(
        (s + 1) / warm, (args.steps - s) / max(1, args.steps - warm)))
    began, total = time.time(), 0.0
    for step in range(1, args.steps + 1):
        loss = loss_of(model, *batch(tok, rng.sample(data, args.batch)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        total += loss.item()
        if step % 100 == 0:
            print(f"step {step} loss {total / 100:.4f} {time.time() - began:.0f} s", flush=True)
            total = 0.0
    loss, exact, heights, outputs = evaluate(model, tok, test)
    print(f"steered loss {loss:.4f} exact {exact:.3f} {heights} {outputs[:6]}", flush=True)


if __name__ == "__main__":
    main()
