#!/usr/bin/env python3
"""Writes docs/scaling.md's tables and docs/scaling.svg: strong and weak scaling of three models'
shapes on stated machines, as trimtab plan simulates them. Usage: tests/plan/scaling.py TRIMTAB

Replaces what stands between the marks in docs/scaling.md. Standard library only."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

root = pathlib.Path(__file__).resolve().parent.parent.parent
trimtab = os.path.abspath(sys.argv[1])
NODES, CORES, RATE = 1024, 64, 100
NETWORK = ["--bandwidth", "12", "--latency", "3"]
MACHINE = ["--cores", str(CORES), "--rate", str(RATE), "--memory", "256", *NETWORK]
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 128256,
         "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
         "torch_dtype": "bfloat16"}
# name, color, published numbers, sequences of a step (strong), sequences a node (weak)
MODELS = [
    ("Llama-3.2-1B", "#1b6ca8", dict(num_hidden_layers=16, hidden_size=2048, intermediate_size=8192,
     num_attention_heads=32, num_key_value_heads=8, head_dim=64, tie_word_embeddings=True)),
    ("Llama-3.1-8B", "#c1571b", dict(num_hidden_layers=32, hidden_size=4096,
     intermediate_size=14336, num_attention_heads=32, num_key_value_heads=8)),
    ("70B shape", "#3c7d3c", dict(num_hidden_layers=80, hidden_size=8192, intermediate_size=28672,
     num_attention_heads=64, num_key_value_heads=8)),
]
STRONG, WEAK = 1024, 8


def plan(job, batch, *more):
    out = subprocess.run([trimtab, "plan", job, "--nodes", str(NODES), *MACHINE, "--scaling",
                          "--json", "--set", f"train.batch_size={batch}", *more],
                         check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out)


def curves():
    found = []
    with tempfile.TemporaryDirectory() as work:
        for name, color, numbers in MODELS:
            model = f"{work}/{name.replace(' ', '-')}"
            os.mkdir(model)
            with open(f"{model}/config.json", "w") as file:
                json.dump({**LLAMA, **numbers}, file)
            job = f"{model}.cfg"
            with open(job, "w") as file:
                file.write(f'@include "{root}/configs/methods/post-block-r8.cfg"\n'
                           f'model: {{ path = "{model}"; }};\n'
                           f'task: {{ file = "{root}/configs/tasks/gsm8k.cfg"; '
                           'max_length = 256; };\n')
            strong = plan(job, STRONG)["strong"]
            weak = plan(job, WEAK)["weak"]
            small = plan(job, STRONG, "--memory", "32")["strong"]
            found.append((name, color, strong, weak, small))
    return found


def table(points):
    first = next(p for p in points if p["best"])
    base = first["best"]["tokens_per_s"]
    rows = ["| nodes | sequences | stages x replicas | micro-batches x tokens | s/step | tokens/s | "
            "speed-up | efficiency % | bubble % | sums % | GiB/node |",
            "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"]
    for p in points:
        b = p["best"]
        if not b:
            rows.append(f"| {p['nodes']} | {p['batch_size']} | does not fit | | | | | | | | |")
            continue
        rows.append(
            f"| {p['nodes']} | {p['batch_size']} | {b['stages']} x {b['replicas']} | "
            f"{b['micro_batches']} x {b['tokens_micro']:.0f} | {b['step_s']:.4g} | "
            f"{b['tokens_per_s']:.4g} | {b['tokens_per_s'] / base * first['nodes']:.4g} | "
            f"{100 * b['efficiency']:.0f} | {100 * b['bubble']:.0f} | "
            f"{100 * b['sums_s'] / b['step_s']:.1f} | {b['node_bytes'] / 2 ** 30:.1f} |")
    return "\n".join(rows)


def svg(found):
    """Efficiency over nodes: strong and weak scaling side by side."""
    width, height, left, top, plot_w, plot_h = 920, 360, 60, 44, 370, 250
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
           'font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="white"/>']
    steps = NODES.bit_length() - 1
    titles = [f"strong: {STRONG} sequences a step", f"weak: {WEAK} sequences a node and step",]
    for panel, title in enumerate(titles):
        x0 = left + panel * (plot_w + 80)
        at = lambda nodes, share: (x0 + plot_w * (nodes.bit_length() - 1) / steps,
                                   top + plot_h * (1 - share))
        out.append(f'<text x="{x0}" y="{top - 16}" font-weight="bold">{title} (simulated)</text>')
        for share in (0, 0.25, 0.5, 0.75, 1):
            y = at(1, share)[1]
            out.append(f'<path d="M{x0} {y:.1f}h{plot_w}" stroke="#ddd"/><text x="{x0 - 8}" '
                       f'y="{y + 4:.1f}" text-anchor="end">{100 * share:.0f} %</text>')
        for k in range(0, steps + 1, 2):
            x = at(1 << k, 0)[0]
            out.append(f'<text x="{x:.1f}" y="{top + plot_h + 18}" text-anchor="middle">{1 << k}'
                       '</text>')
        out.append(f'<text x="{x0 + plot_w / 2}" y="{top + plot_h + 36}" text-anchor="middle">nodes '
                   f'of {CORES} cores</text>')
        for i, (name, color, strong, weak, small) in enumerate(found):
            lines = [(strong, ""), (small, "5 4")] if panel == 0 else [(weak, "")]
            for points, dashes in lines:
                xy = [at(p["nodes"], p["best"]["efficiency"]) for p in points if p["best"]]
                path = "L".join(f"{x:.1f} {y:.1f}" for x, y in xy)
                out.append(f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="2" '
                           f'stroke-dasharray="{dashes or "none"}"/>')
            if panel == 0:
                y = top + plot_h - 48 + 16 * i
                out.append(f'<path d="M{x0 + 10} {y - 4}h22" stroke="{color}" stroke-width="2"/>'
                           f'<text x="{x0 + 38}" y="{y}">{name}</text>')
    out.append(f'<text x="{left + 150}" y="{top + plot_h - 16}">dashed: 32 GiB a node instead of '
               '256</text>')
    return "\n".join(out + ["</svg>\n"])


def main():
    found = curves()
    parts = []
    for name, _, strong, weak, small in found:
        parts += [f"### {name}", f"Strong scaling, {STRONG} sequences a step:", table(strong),
                  f"Weak scaling, {WEAK} sequences a node:", table(weak),
                  f"Strong scaling with 32 GiB a node:", table(small)]
    page = root / "docs/scaling.md"
    text = page.read_text()
    begin, end = "<!-- tables: tests/plan/scaling.py -->\n", "<!-- end of tables -->"
    head, rest = text.split(begin)
    page.write_text(head + begin + "\n" + "\n\n".join(parts) + "\n\n" + end + rest.split(end)[1])
    (root / "docs/scaling.svg").write_text(svg(found))


main()
