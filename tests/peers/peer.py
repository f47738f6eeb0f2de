"""The peer: PyTorch training the same method on the same model and examples, as fast as it can be made.

    python peer.py '{"model": DIR, "data": FILE, "dtype": "bf16", "threads": 2, "lr": 0.01,
                     "products": "onednn", "compile": false, "method": "steering"}'

reads one JSON object a line, {"case": "short", "way": "packed", "steps": 2, "fresh": false}, and
answers with one: {"seconds": [...], "losses": [...]}; fresh: training begins anew. A step is all examples of the case: forward, backward, AdamW.

What frozen weights are multiplied by ("products"): "torch", F.linear (MKL in fp32, oneDNN in bf16);
"medium", F.linear with set_float32_matmul_precision("medium"), which takes fp32 to oneDNN too;
"onednn", oneDNN's linear with weights packed once for forward and once for backward.

Ways to run the examples: "padded", all in one batch padded to 256 tokens, with a mask, through
model(..., labels=...).loss and so with the logits of every token, in slices of 4 for memory (the
public code of the paper); "single", one after the other without padding; "packed", all in one row of
tokens, attention sequence by sequence. The last two compute logits at supervised positions only.
"""
import json
import sys
import time

import torch
import torch.nn.functional as F
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

RANK, PADDED_TO, SLICE, IGNORE = 8, 256, 4, -100
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")
starts = []  # of the packed sequences, read by packed_attention


packed_weights = []  # opaque to torch.compile: graphs hold a tensor with the number of one


@torch.library.custom_op("peers::product", mutates_args=())
def product(x: torch.Tensor, which: torch.Tensor, back: torch.Tensor, n_out: int) -> torch.Tensor:
    """y = x W^T of the frozen packed weight number `which`; `back` is its transposed one."""
    return torch.ops.mkldnn._linear_pointwise(x, packed_weights[int(which)], None, "none", [], "")


@product.register_fake
def _(x, which, back, n_out):
    return x.new_empty(*x.shape[:-1], n_out)


def remember(ctx, inputs, output):
    x, ctx.which, ctx.back, _ = inputs
    ctx.n_in = x.shape[-1]


def product_backward(ctx, d_y):
    """The gradient of x alone."""
    return product(d_y.contiguous(), ctx.back, ctx.which, ctx.n_in), None, None, None


product.register_autograd(product_backward, setup_context=remember)


class OneDnnLinear(torch.nn.Linear):
    """A frozen Linear whose weight lies packed, once as it is and once transposed."""

    def __init__(self, weight):
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.weight = torch.nn.Parameter(weight[:0], requires_grad=False)  # dtype and device
        pack, n = torch.ops.mkldnn._reorder_linear_weight, len(packed_weights)
        packed_weights.extend((pack(weight, 256), pack(weight.t().contiguous(), 256)))
        self.register_buffer("which", torch.tensor(n))
        self.register_buffer("back", torch.tensor(n + 1))

    def forward(self, x):
        return product(x, self.which, self.back, self.out_features)


class Steering(torch.nn.Module):
    """h + U silu(D h) behind a decoder layer; fp32 parameters."""

    def __init__(self, down, up):
        super().__init__()
        self.down, self.up = torch.nn.Parameter(down), torch.nn.Parameter(up)

    def forward(self, h):
        z = F.silu(F.linear(h, self.down.to(h.dtype)))
        return h + F.linear(z, self.up.to(h.dtype))

    def hook(self, module, inputs, output):
        return (self(output[0]), *output[1:]) if isinstance(output, tuple) else self(output)


def packed_attention(module, q, k, v, attention_mask, scaling=None, **kwargs):
    """[1, heads, tokens, head_dim]: each sequence sees itself."""
    parts = []
    for a, b in zip(starts, starts[1:]):
        parts.append(F.scaled_dot_product_attention(q[:, :, a:b], k[:, :, a:b], v[:, :, a:b],
                                                    is_causal=True, scale=scaling, enable_gqa=True))
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def build_model(job, dtype):
    config = LlamaConfig.from_pretrained(job["model"])
    config.use_cache = False
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    with safe_open(f"{job['model']}/model.safetensors", "pt") as file:
        state = {name: file.get_tensor(name).to(dtype) for name in model.state_dict()
                 if name in file.keys()}
    model.load_state_dict(state, strict=False, assign=True)
    del state
    model.tie_weights()
    model.model.rotary_emb = LlamaRotaryEmbedding(config)
    model.requires_grad_(False)
    model.train()
    if job["products"] == "onednn":
        places = [(parent, name) for parent in model.modules() for name in PROJECTIONS
                  if hasattr(parent, name)]
        for parent, name in places:  # what was there is freed at once
            setattr(parent, name, OneDnnLinear(getattr(parent, name).weight.detach()))
    if job["products"] == "medium":
        torch.set_float32_matmul_precision("medium")
    return model


def add_steering(model, job):
    """From an adapter that trimtab wrote, or as trimtab begins: D small and random, U zero."""
    hidden, generator, parameters = model.config.hidden_size, torch.Generator().manual_seed(1), []
    file = safe_open(job["adapter"], "pt") if job.get("adapter") else None
    for i, layer in enumerate(model.model.layers):
        name = f"adapters.layer{i}_block"
        if file:
            down = file.get_tensor(f"{name}.down.weight")
            up = file.get_tensor(f"{name}.up.weight")
        else:
            down = (2 * torch.rand(RANK, hidden, generator=generator) - 1) / hidden ** 0.5
            up = torch.zeros(hidden, RANK)
        steering = Steering(down, up)
        layer.register_forward_hook(steering.hook)
        parameters += [steering.down, steering.up]
    return parameters


def add_lora(model):
    from peft import LoraConfig, get_peft_model
    get_peft_model(model, LoraConfig(r=RANK, lora_alpha=RANK, lora_dropout=0.0, bias="none",
                                     target_modules=["q_proj", "v_proj"]))
    return [p for p in model.parameters() if p.requires_grad]


class Peer:
    def __init__(self, job):
        self.job = job
        dtype = torch.bfloat16 if job["dtype"] == "bf16" else torch.float32
        torch.set_num_threads(job["threads"])
        self.model = build_model(job, dtype)
        ALL_ATTENTION_FUNCTIONS.register("packed", packed_attention)
        lora = job["method"] == "lora"
        self.parameters = add_lora(self.model) if lora else add_steering(self.model, job)
        self.at_first = [p.detach().clone() for p in self.parameters]
        self.begin_training()
        self.data = json.load(open(job["data"]))
        if job["compile"]:
            torch._dynamo.config.recompile_limit = 64  # lengths, ways
            for layer in self.model.model.layers:
                layer.compile(dynamic=None)

    def begin_training(self):
        with torch.no_grad():
            for parameter, value in zip(self.parameters, self.at_first):
                parameter.copy_(value)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=self.job["lr"], weight_decay=0.0)

    def choose_attention(self, way):
        self.model.config._attn_implementation = "packed" if way == "packed" else "sdpa"

    def loss_at_targets(self, ids, positions, rows, targets, n_targets):
        hidden = self.model.model(input_ids=ids, position_ids=positions, use_cache=False)
        logits = self.model.lm_head(hidden.last_hidden_state[0, rows])
        return F.cross_entropy(logits.float(), targets, reduction="sum") / n_targets

    def single(self, examples, n_targets):
        for example in examples:
            ids, prompt = example["ids"], example["prompt"]
            rows = torch.arange(prompt - 1, len(ids) - 1)
            yield self.loss_at_targets(torch.tensor([ids]), torch.arange(len(ids))[None], rows,
                                       torch.tensor(ids[prompt:]), n_targets)

    def packed(self, examples, n_targets):
        ids, positions, rows, targets = [], [], [], []
        starts[:] = [0]
        for example in examples:
            n, prompt = len(example["ids"]), example["prompt"]
            rows += range(len(ids) + prompt - 1, len(ids) + n - 1)
            targets += example["ids"][prompt:]
            ids += example["ids"]
            positions += range(n)
            starts.append(len(ids))
        yield self.loss_at_targets(torch.tensor([ids]), torch.tensor([positions]),
                                   torch.tensor(rows), torch.tensor(targets), n_targets)

    def padded(self, examples, n_targets):
        for i in range(0, len(examples), SLICE):
            part = examples[i:i + SLICE]
            ids = torch.zeros(len(part), PADDED_TO, dtype=torch.long)
            mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
            for row, example in enumerate(part):
                n, prompt = len(example["ids"]), example["prompt"]
                ids[row, :n] = torch.tensor(example["ids"])
                mask[row, :n] = 1
                labels[row, prompt:n] = ids[row, prompt:n]
            loss = self.model(input_ids=ids, attention_mask=mask, labels=labels).loss
            yield loss * (int((labels != IGNORE).sum()) / n_targets)

    def step(self, case, way):
        examples = self.data[case]
        n_targets = sum(len(e["ids"]) - e["prompt"] for e in examples)
        self.choose_attention(way)
        total = 0.0
        for loss in getattr(self, way)(examples, n_targets):
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total

    def run(self, case, way, steps, fresh):
        seconds, losses = [], []
        if fresh:
            self.begin_training()
        for _ in range(steps):
            began = time.perf_counter()
            losses.append(self.step(case, way))
            seconds.append(time.perf_counter() - began)
        return {"seconds": seconds, "losses": losses}


def main():
    answers = sys.stdout
    sys.stdout = sys.stderr  # libraries may print
    peer = Peer(json.loads(sys.argv[1]))
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(peer.run(**json.loads(line))), file=answers, flush=True)


main()
