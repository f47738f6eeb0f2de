"""Makes a sweep's directory by hand, as trimtab leaves it: made_sweep.py DIR [N_LR N_RANK N_SEEDS N_STEPS].
Numbers follow a formula, names are as hostile as a job file allows. DIR.empty is the same sweep before its
first run. Only for tests of the report."""
import json
import math
import os
import shutil
import sys

METHODS = ["full", "lora", "post-block", "</script><script>alert(1)</script>",
           "\"quoted\" & 'single' <b>\u2028", "emoji \U0001F680 \u202eLTR?\u202c"]
TASKS = ["configs/tasks/listops.cfg", "configs/tasks/sort.cfg"]
MODEL_PARAMETERS = 1109760


def outcome(method, lr, rank, seed, task):
    """Held-out loss and exact match in the end."""
    best = 0.5 + 0.06 * method + 0.3 * task - 0.02 * math.log2(rank)
    off = abs(math.log10(lr) + 2.2 - 0.2 * method)
    loss = best * (1 + 0.5 * off * off) + 0.01 * math.sin(7.0 * seed + method)
    return loss, max(0.0, min(1.0, 1.15 - loss))


def rows(method, rank, loss, exact, n_steps, done, seed, life2=False):
    n = 12288 * rank // 8 if method else MODEL_PARAMETERS
    yield {"kind": "method", "step": 0, "method": "made", "parameters": n, "activations": n, "weights": 0,
           "active": n, "model_parameters": MODEL_PARAMETERS, "percent": 100 * n / MODEL_PARAMETERS, "life": 1}
    yield {"kind": "eval", "what": "frozen model", "step": 0, "loss": 7.0, "exact_match": 0.02,
           "n_examples": 500, "seconds": 1, "life": 1}
    for step in range(1, done + 1):
        fall = math.exp(-4.0 * step / n_steps)
        noise = 1 + 0.12 * math.sin(step * 12.9898 + seed * 78.233)
        if step % 2 == 0:
            yield {"kind": "train", "step": step, "loss": (0.8 * loss + 6 * fall) * noise, "lr": 0.01,
                   "grad_norm": 1.0, "tokens": 100, "tokens_per_s": 1000.0, "elapsed_s": 0.5 * step,
                   "peak_rss_bytes": 1 << 25, "life": 1}
        if step % max(1, n_steps // 8) == 0:
            yield {"kind": "eval", "what": "held out", "step": step, "loss": loss + 5 * fall,
                   "exact_match": exact * (1 - fall), "n_examples": 500, "seconds": 1, "life": 1}
    if done == n_steps:
        yield {"kind": "eval", "what": "adapted model", "step": done, "loss": loss, "exact_match": exact,
               "n_examples": 500, "seconds": 1, "life": 1}


def status_of(i, method, lr_index, n_lr, seed):
    if method > 0 and lr_index == n_lr - 1 and seed == 1:
        return "diverged", "step %d: the loss is not finite on rank 0 <img src=x onerror=alert(2)>" % (3 + i % 5)
    if i % 53 == 17:
        return "failed", "groups/g0000: cannot open: No space left on device"
    if i % 41 == 11:
        return "waiting", ""
    if i % 41 == 12:
        return "active", ""
    if i % 67 == 5:
        return "ended early", "train.patience: 4 evaluations without a better held-out loss"
    return "finished", ""


def main():
    out = sys.argv[1]
    n_lr, n_rank, n_seeds, n_steps = (int(x) for x in (sys.argv[2:] + ["4", "2", "3", "48"])[:4] if x)
    lrs = ["%.3g" % (1e-3 * 10 ** (2 * k / max(1, n_lr - 1))) for k in range(n_lr)]
    ranks = [str(2 ** (2 + k)) for k in range(n_rank)]
    axes = {"method": METHODS, "task": TASKS, "train.lr": lrs, "method.rank": ranks,
            "train.seed": [str(s + 1) for s in range(n_seeds)]}
    plan = []
    for m, method in enumerate(METHODS):
        for t, task in enumerate(TASKS):
            for a, lr in enumerate(lrs):
                for rank in ranks if m else [None]:
                    for seed in axes["train.seed"]:
                        settings = {"method": method, "task": task, "train.lr": lr, "train.seed": seed}
                        if rank:
                            settings["method.rank"] = rank
                        plan.append((m, t, a, settings))
    write(plan, axes, out, n_lr, n_steps)
    empty = out + ".empty"
    os.makedirs(empty + "/groups")
    for name in ("manifest.jsonl", "sweep.json"):
        shutil.copy(out + "/" + name, empty + "/" + name)


def write(plan, axes, out, n_lr, n_steps):
    members = {}
    os.makedirs(out + "/groups")
    with open(out + "/manifest.jsonl", "w") as manifest:
        for i, (m, t, a, settings) in enumerate(plan):
            group, name = i // 64, "r%05d" % i
            run_dir = "groups/g%04d/%s" % (group, name)
            manifest.write(json.dumps({"run": i, "name": name, "group": group, "dir": run_dir, "settings": settings,
                                       "n_steps": n_steps, "predicted_bytes": 1 << 26, "predicted_hours": 0.02}) + "\n")
            seed = int(settings["train.seed"])
            loss, exact = outcome(m, float(settings["train.lr"]), int(settings.get("method.rank", 8)), seed, t)
            status, why = status_of(i, m, a, n_lr, seed)
            done = {"finished": n_steps, "ended early": n_steps // 2, "diverged": 6, "failed": 0,
                    "waiting": 0, "active": n_steps // 3}[status]
            member = {"name": name, "status": status, "step": done, "n_steps": n_steps,
                      "loss": loss if done else None}
            if done == n_steps:
                member.update(held_out_loss=loss, exact_match=exact)
            if why:
                member["why"] = why
            members.setdefault(group, []).append(member)
            if status in ("waiting", "failed"):
                continue
            os.makedirs(out + "/" + run_dir)
            open(out + "/" + run_dir + "/job.cfg", "w").write("# made\n")
            with open(out + "/" + run_dir + "/metrics.jsonl", "w") as metrics:
                for row in rows(m, int(settings.get("method.rank", 8)), loss, exact, n_steps, done, seed):
                    metrics.write(json.dumps(row) + "\n")
    for group, rows_of in members.items():
        os.makedirs(out + "/groups/g%04d" % group, exist_ok=True)
        with open(out + "/groups/g%04d/cohort.json" % group, "w") as roster:
            json.dump({"life": 1, "members": rows_of}, roster)
        with open(out + "/groups/g%04d.outcome.json" % group, "w") as stream:
            json.dump({"attempt": 1, "exit": 0, "status": "ok", "why": "", "host": "node<%d>" % group,
                       "seconds": 12.5}, stream)
    with open(out + "/sweep.json", "w") as stream:
        json.dump({"format": 1, "name": "made-sweep", "n_runs": len(plan), "n_groups": len(members),
                   "axes": [{"name": k, "values": v} for k, v in axes.items()],
                   "metric": "held_out_loss", "search": "grid", "halving": None}, stream)


main()
