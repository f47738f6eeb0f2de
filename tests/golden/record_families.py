#!/usr/bin/env python3
"""Records what Hugging Face transformers computes for every family of models that trimtab reads.

    python record_families.py [CASE...]        writes tests/golden/families/<case>/
    python record_families.py --again CASE...  computes all of it again from what is committed, and
                                               compares
    python record_families.py --model DIR CASE VOCABULARY [SPELLING]
                                               such a model for a tokenizer, not recorded

Versions are pinned in requirements.txt. A case is a tiny random model as save_pretrained writes it
(config.json, model.safetensors: names and layout are theirs), golden.json (sequences, methods,
losses, names and shapes of adapter tensors, greedy ids) and golden.safetensors: the logits, and for
each variant its tensors and their gradients, one behind the other as golden.json lists them.
Besides, a case may have other spellings, <case>_hub and so on: the config.json, or the tensor
names, of files that older versions wrote or that lie on the hub; all else there is a link to the
case's own files, and transformers itself computes the same logits from both.

Everything is computed in fp32 by eager attention, each sequence on its own. The weights, and those
of the adapters, are random values that bf16 holds exactly. They are drawn anew until the recording
can show something and shows it clearly:

    - every norm's weights, every bias, and every setting of the case's "off" list, set aside,
      changes the logits by more than 1e-2 of the largest: a hundred times what the test allows
      (twice, what is by nature almost the same: "faint");
    - computed in double where transformers computes in the parameters' precision, nothing differs
      by more than a tenth of what the test allows; no choice of a token or of an expert is near a
      tie;
    - generation without a KV cache gives the same ids.

Adapters: "steer" after every block, "joint" that and LoRA on every product (of experts too),
"sites" at the other sites. Products that a family fuses are adapted apart, as rows of the fused
one. Full-parameter tuning, where trimtab has it, as two numbers for each tensor's gradient g: its
length, and sum g[i] cos(i). Read by tests/golden/test_families.c; nothing here runs when the tests
run.
"""

import contextlib
import copy
import json
import math
import os
import pathlib
import shutil
import sys
import tempfile
import zlib

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

OUT = pathlib.Path(__file__).parent / "families"
SHOWS, SHOWS_FAINTLY, CONDITIONED, MARGIN = 1e-2, 2e-4, 1e-5, 1e-3
N_DRAWS, N_CANDIDATES, AGAIN = 12, 8, 5e-5


PLAIN = {"rope_type": "default", "rope_theta": 10000.0}


def sized(model_type, **keys):
    """The keys of a tiny model; epsilon so large that it matters."""
    return dict(dict(model_type=model_type, num_hidden_layers=3, hidden_size=24,
                     intermediate_size=28, num_attention_heads=4, num_key_value_heads=2,
                     vocab_size=59, rms_norm_eps=0.02, max_position_embeddings=128,
                     bos_token_id=1, eos_token_id=2, pad_token_id=0), **keys)


def windows(pattern):
    """layer_types: s or f per layer."""
    return [{"s": "sliding_attention", "f": "full_attention"}[x] for x in pattern]


def yarn(factor, original, **more):
    return dict(rope_type="yarn", rope_theta=10000.0, factor=factor,
                original_max_position_embeddings=original, **more)


LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
GEMMA3_ROPE = {"full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
               "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
            "short_factor": [1.0, 1.7], "long_factor": [1.2, 6.0],
            "original_max_position_embeddings": 14}
NO_WINDOW = {"sliding_window": None}


# What each case is, and what must matter in it: settings under "off" that change the logits.
CASES = {
    # Llama 1 and 2: a key head for every head, untied. Linear scaling as long tunes have it.
    "llama2": dict(
        full=True,
        config=sized("llama", num_key_value_heads=4,
                     rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),
        off=[{"rope_parameters": PLAIN}, {"rope_parameters.rope_theta": 500.0},
             {"rms_norm_eps": 1e-6}]),
    "llama3": dict(
        full=True,
        config=sized("llama", rope_parameters=LLAMA3, head_dim=12, tie_word_embeddings=True),
        off=[{"rope_parameters": PLAIN}, {"rope_parameters.factor": 2.0}]),
    "smollm2": dict(
        full=True,
        config=sized("llama", rope_parameters=dict(PLAIN, rope_theta=1000.0),
                     tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
        off=[{"rope_parameters": PLAIN}]),
    "mistral": dict(
        full=True,
        config=sized("mistral", head_dim=12, sliding_window=6, rope_parameters=PLAIN),
        lengths=[9, 70],  # longer than a block of attention
        off=[NO_WINDOW, {"sliding_window": 5}, {"sliding_window": 7}]),
    "qwen2": dict(
        full=True,
        config=sized("qwen2", num_hidden_layers=4, use_sliding_window=True, sliding_window=6,
                     max_window_layers=2, rope_parameters=yarn(4.0, 16),
                     tie_word_embeddings=True),
        off=[{"layer_types": windows("ffff")}, {"layer_types": windows("ssss")},
             {"layer_types": windows("ssff")}, {"sliding_window": 5}, {"sliding_window": 7},
             {"rope_parameters": PLAIN}, {"rope_parameters.attention_factor": 1.0}]),
    "qwen3": dict(
        config=sized("qwen3", head_dim=12, attention_bias=True, use_sliding_window=True,
                     sliding_window=5, layer_types=windows("sfs"),
                     rope_parameters=yarn(3.0, 400, beta_fast=8.0, beta_slow=2.0, truncate=False,
                                          attention_factor=1.3)),
        off=[{"layer_types": windows("fff")}, {"layer_types": windows("sff")},
             {"layer_types": windows("ffs")}, {"sliding_window": 4}, {"sliding_window": 6},
             {"rope_parameters": PLAIN}, {"rope_parameters.attention_factor": 1.0},
             {"rope_parameters.beta_fast": 32.0}, {"rope_parameters.beta_slow": 1.0},
             {"rope_parameters.truncate": True}]),
    "gemma": dict(
        full=True,
        config=sized("gemma", head_dim=12, num_key_value_heads=1, attention_bias=True,
                     rope_parameters=PLAIN),
        off=[{"hidden_act": "silu"}], faint=[{"hidden_act": "gelu"}]),
    "gemma2": dict(
        config=sized("gemma2", num_hidden_layers=4, head_dim=12, sliding_window=6,
                     query_pre_attn_scalar=5, attn_logit_softcapping=2.0,
                     final_logit_softcapping=6.0, rope_parameters=PLAIN),
        off=[{"layer_types": windows("ffff")}, {"layer_types": windows("fsfs")},
             {"sliding_window": 5}, {"sliding_window": 7}, {"query_pre_attn_scalar": 12},
             {"attn_logit_softcapping": None}, {"final_logit_softcapping": None},
             {"hidden_activation": "silu"}]),
    "gemma3_text": dict(
        config=sized("gemma3_text", num_hidden_layers=7, hidden_size=16, intermediate_size=20,
                     num_attention_heads=2, num_key_value_heads=1, head_dim=12, sliding_window=6,
                     query_pre_attn_scalar=5, rope_parameters=GEMMA3_ROPE),
        off=[{"layer_types": windows("f" * 7)}, {"layer_types": windows("s" * 7)},
             {"layer_types": windows("ssssfss")}, {"sliding_window": 5}, {"sliding_window": 7},
             {"query_pre_attn_scalar": 12}, {"hidden_activation": "silu"},
             {"rope_parameters.full_attention": dict(PLAIN, rope_theta=1000000.0)},
             {"rope_parameters.full_attention.rope_theta": 10000.0},
             {"rope_parameters.sliding_attention.rope_theta": 1000000.0},
             {"rope_parameters.sliding_attention": GEMMA3_ROPE["full_attention"]}]),
    "phi3": dict(
        config=sized("phi3", sliding_window=6, rope_parameters=PLAIN),
        off=[NO_WINDOW, {"sliding_window": 5}, {"sliding_window": 7}]),
    # Phi-4-mini: sequences on both sides of original_max_position_embeddings, and prompts that grow
    # past it. Of these transformers computes all again when they do; trimtab takes the long factors
    # from the beginning ("long"), and so does the model that records them.
    "phi3_longrope": dict(
        config=sized("phi3", original_max_position_embeddings=14, max_position_embeddings=64,
                     rope_parameters=LONGROPE, tie_word_embeddings=True),
        off=[{"rope_parameters": dict(PLAIN, partial_rotary_factor=0.75)},
             {"rope_parameters.long_factor": LONGROPE["short_factor"]},
             {"rope_parameters.short_factor": LONGROPE["long_factor"]},
             {"rope_parameters.attention_factor": 1.0}],
        lengths=[14, 21],
        generation=[dict(lengths=[4, 5], n_new=9), dict(lengths=[15, 18], n_new=9),
                    dict(lengths=[7, 14], n_new=9, long=True)]),
    "smollm3": dict(
        full=True,
        config=sized("smollm3", num_hidden_layers=4, use_sliding_window=True, sliding_window=6,
                     no_rope_layers=[1, 0, 1, 0], attention_bias=True, mlp_bias=True,
                     tie_word_embeddings=False, rope_parameters=PLAIN),
        off=[{"no_rope_layers": [1, 1, 1, 1]}, {"no_rope_layers": [0, 0, 0, 0]},
             {"no_rope_layers": [0, 1, 0, 1]}, {"layer_types": windows("ffff")},
             {"layer_types": windows("sfsf")}, {"sliding_window": 5}, {"sliding_window": 7}]),
    "olmo2": dict(
        config=sized("olmo2", attention_bias=True,
                     rope_parameters=dict(PLAIN, rope_theta=500000.0)),
        off=[{"rope_parameters": dict(PLAIN, rope_theta=5000.0)}, {"rms_norm_eps": 1e-6}]),
    "granite": dict(
        full=True,
        config=sized("granite", attention_bias=True, mlp_bias=True, tie_word_embeddings=True,
                     embedding_multiplier=3.0, logits_scaling=4.0, residual_multiplier=0.6,
                     attention_multiplier=0.2, rope_parameters=PLAIN),
        off=[{"embedding_multiplier": 1.0}, {"logits_scaling": 1.0}, {"residual_multiplier": 1.0},
             {"attention_multiplier": 6 ** -0.5}]),
    "mixtral": dict(
        config=sized("mixtral", head_dim=12, sliding_window=6, intermediate_size=16,
                     num_local_experts=4, num_experts_per_tok=2, rope_parameters=PLAIN),
        off=[NO_WINDOW, {"sliding_window": 5}, {"sliding_window": 7}, {"num_experts_per_tok": 1}]),
    "qwen3_moe": dict(
        config=sized("qwen3_moe", head_dim=12, moe_intermediate_size=12, num_experts=5,
                     num_experts_per_tok=2, norm_topk_prob=True, mlp_only_layers=[1],
                     rope_parameters=PLAIN, tie_word_embeddings=True),
        off=[{"norm_topk_prob": False}, {"num_experts_per_tok": 1}]),
    "qwen3_moe_sparse": dict(
        config=sized("qwen3_moe", num_hidden_layers=4, head_dim=8, moe_intermediate_size=16,
                     num_experts=4, num_experts_per_tok=3, norm_topk_prob=False,
                     decoder_sparse_step=2, attention_bias=True, use_sliding_window=True,
                     sliding_window=6, rope_parameters=PLAIN),
        off=[{"norm_topk_prob": True}, {"num_experts_per_tok": 1}, NO_WINDOW, {"sliding_window": 5},
             {"sliding_window": 7}]),
}


# Lengths of the sequences, and of prompts that generate n_new tokens together.
DEFAULTS = dict(faint=[], full=False, lengths=[9, 14], generation=[dict(lengths=[3, 8], n_new=12)])


# --- Other spellings ------------------------------------------------------------------------------

def without(config, *keys):
    return {k: v for k, v in config.items() if k not in keys}


def older(config):
    """What versions before 5 wrote: rope_theta and rope_scaling at the top, torch_dtype."""
    c = without(config, "rope_parameters", "dtype", "layer_types")
    rope = dict(config["rope_parameters"])
    c["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        c["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    c["rope_scaling"] = rope if rope["rope_type"] != "default" else None
    c["torch_dtype"] = config["dtype"]
    c["transformers_version"] = "4.44.0"
    return c


def named_type(config):
    """rope_scaling with its kind under "type", as the first versions had it."""
    c = older(config)
    c["rope_scaling"]["type"] = c["rope_scaling"].pop("rope_type")
    return c


def llama1(config):
    """Llama 1 and 2 have none of the later keys."""
    return without(named_type(config), "head_dim", "attention_bias", "mlp_bias", "rope_theta",
                   "attention_dropout")


def smollm2(config):
    return dict(older(config), is_llama_config=True, rope_interleaved=False,
                **{"transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}})


def gemma1(config):
    """hidden_act says gelu and means its tanh form; hidden_activation says nothing."""
    return dict(older(config), hidden_act="gelu", hidden_activation=None)


def gemma2(config):
    return dict(older(config), hidden_act="gelu_pytorch_tanh", cache_implementation="hybrid")


def gemma3_text(config):
    c = older(dict(config, rope_parameters=dict(PLAIN)))
    c = without(c, "_sliding_window_pattern", "use_bidirectional_attention")
    ropes = config["rope_parameters"]
    return dict(c, rope_theta=ropes["full_attention"]["rope_theta"],
                rope_local_base_freq=ropes["sliding_attention"]["rope_theta"],
                rope_scaling={"factor": 8.0, "rope_type": "linear"}, sliding_window_pattern=6,
                cache_implementation="hybrid")


def gemma3_parts(config):
    """Gemma 3's text part names what differs from the class's defaults, and little else."""
    kept = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "head_dim", "vocab_size", "rms_norm_eps", "sliding_window",
            "query_pre_attn_scalar", "model_type")
    text = {k: config[k] for k in kept}
    text["rope_scaling"] = {"factor": 8.0, "rope_type": "linear"}
    return {"architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 55,
            "eoi_token_index": 56, "eos_token_id": [1, 2], "image_token_index": 57,
            "initializer_range": 0.02, "mm_tokens_per_image": 4, "model_type": "gemma3",
            "text_config": text, "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0",
            "vision_config": VISION}


VISION = {"hidden_size": 8, "image_size": 8, "intermediate_size": 8,
          "model_type": "siglip_vision_model", "num_attention_heads": 1, "num_hidden_layers": 1,
          "patch_size": 4, "vision_use_head": False}


def gemma3_tensors(prefix):
    """The text part under its prefix, beside a vision tower."""
    def rewrite(tensors, config):
        torch.manual_seed(0)
        text = dict(hidden_size=config["hidden_size"], num_hidden_layers=1,
                    vocab_size=config["vocab_size"])
        whole = transformers.Gemma3ForConditionalGeneration(transformers.Gemma3Config(
            text_config=text, vision_config=VISION, mm_tokens_per_image=4))
        out = {prefix + "." + name.removeprefix("model."): t for name, t in tensors.items()}
        for name, p in whole.state_dict().items():
            if "vision_tower" in name or "projector" in name:
                out[name.removeprefix("model.")] = p.detach().bfloat16()
        return out
    return rewrite


def phi3(config):
    return dict(older(config), embd_pdrop=0.0, resid_pdrop=0.0)


def phi4_mini(config):
    return dict(named_type(config), embd_pdrop=0.0, resid_pdrop=0.0)


def qwen3_moe(config):
    """num_experts; where no window is used, also the key of windows that this family ignores."""
    c = older(config)
    c["num_experts"] = c.pop("num_local_experts")
    return c if c["use_sliding_window"] else dict(c, max_window_layers=2)


SPELLINGS = {
    "llama2": {"hub": (llama1,)},
    "llama3": {"hub": (older,), "type": (named_type,)},
    "smollm2": {"hub": (smollm2,)},
    "mistral": {"hub": (older,)},
    "qwen2": {"hub": (older,)},
    "gemma": {"hub": (gemma1,)},
    "gemma2": {"hub": (gemma2,)},
    "gemma3_text": {"hub": (gemma3_text,),
                    "multimodal": (gemma3_parts, gemma3_tensors("language_model.model"))},
    "phi3": {"hub": (phi3,)},
    "phi3_longrope": {"hub": (phi4_mini,)},
    "smollm3": {"hub": (older,)},
    "olmo2": {"hub": (older,)},
    "granite": {"hub": (older,)},
    "mixtral": {"hub": (older,)},
    "qwen3_moe": {"hub": (qwen3_moe,)},
    "qwen3_moe_sparse": {"hub": (qwen3_moe,)},
}


# --- Models ---------------------------------------------------------------------------------------

def text_part(model):
    """The decoder: its layers, norm and embedding."""
    return getattr(model.model, "language_model", model.model)


def is_norm(name):
    return "norm" in name.rsplit(".", 2)[-2]


def norm_offset(config):
    return 1.0 if config.model_type.startswith("gemma") else 0.0


def draw_weights(model, rng):
    """Random values that bf16 holds, of sizes that make every part of the network matter."""
    offset = norm_offset(model.config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            x = torch.randn(p.shape, generator=rng)
            if is_norm(name):
                x = 1 - offset + 0.3 * x
            elif p.dim() == 1:
                x = 0.4 * x
            elif "embed" in name:
                x = 0.5 * x
            elif ".gate.weight" in name:  # the router
                x = 0.3 * x
            else:
                x = 1.3 * x / math.sqrt(p.shape[-1])
            p.copy_(x.bfloat16())


def make_model(case, rng):
    config = AutoConfig.for_model(**copy.deepcopy(case["config"]))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    draw_weights(model, rng)
    return model.to(torch.bfloat16)


def open_model(where, dtype=torch.float32, config=None):
    config = config or AutoConfig.from_pretrained(where)
    model = AutoModelForCausalLM.from_pretrained(where, config=config, dtype=dtype,
                                                 attn_implementation="eager",
                                                 experts_implementation="eager").eval()
    model.requires_grad_(False)
    return model


def changed_config(where, change):
    """The config with some settings replaced; keys may name parts of rope_parameters."""
    config = AutoConfig.from_pretrained(where)
    for key, value in copy.deepcopy(change).items():
        *path, last = key.split(".")
        owner = config
        for word in path:
            owner = owner[word] if isinstance(owner, dict) else getattr(owner, word)
        if isinstance(owner, dict):
            owner[last] = value
        else:
            setattr(owner, last, value)
    return config


# --- Adapters -------------------------------------------------------------------------------------

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
FUSED = {"qkv_proj": ATTENTION[:3], "gate_up_proj": MLP[:2]}
RANK, ALPHA = 2, 3.0

STEERING = [["method", "form", "nonlinear"], ["method", "rank", str(RANK)],
            ["method", "bias", "true"]]
VARIANTS = {
    "steer": STEERING,
    "joint": STEERING + [["lora", "targets", "all"], ["lora", "rank", str(RANK)],
                         ["lora", "alpha", str(ALPHA)]],
    "sites": [["method", "form", "vector"],
              ["method", "site", "post_mlp+mlp_input+pre_mlp+heads"]],
}


class Adapter:
    """Adapter tensors by the names trimtab gives them, applied by hooks. values: of all tensors of
    all variants; those missing are drawn."""

    def __init__(self, model, variant, values, rng):
        self.dtype = next(model.parameters()).dtype
        self.values, self.rng, self.tensors, self.undo = values, rng, {}, []
        config = model.config.get_text_config()
        self.heads = config.num_attention_heads
        self.sizes = dict(q_proj=self.heads, k_proj=config.num_key_value_heads,
                          v_proj=config.num_key_value_heads)
        for i, layer in enumerate(text_part(model).layers):
            if variant == "sites":
                self.add_sites(i, layer, config.hidden_size)
            else:
                self.add_steering(i, layer, config.hidden_size)
            if variant == "joint":
                self.add_lora(i, layer, config)

    def remove(self):
        for undo in self.undo:
            undo()

    def tensor(self, name, size, *shape):
        if name not in self.values:
            self.values[name] = (size * torch.randn(shape, generator=self.rng)).bfloat16()
        self.tensors[name] = self.values[name].to(self.dtype).requires_grad_(True)
        return self.tensors[name]

    def hook(self, module, run):
        self.undo.append(module.register_forward_hook(run).remove)

    def pre_hook(self, module, run):
        self.undo.append(module.register_forward_pre_hook(run).remove)

    def add_steering(self, i, layer, hidden):
        stem = f"adapters.layer{i}_block."
        down = self.tensor(stem + "down.weight", 1 / math.sqrt(hidden), RANK, hidden)
        up = self.tensor(stem + "up.weight", 0.5, hidden, RANK)
        bias = self.tensor(stem + "bias", 0.2, hidden)

        def run(module, args, output):
            h = output[0] if isinstance(output, tuple) else output
            h = h + torch.nn.functional.silu(h @ down.T) @ up.T + bias
            return (h, *output[1:]) if isinstance(output, tuple) else h
        self.hook(layer, run)

    def add_sites(self, i, layer, hidden):
        def shifted(x, v):
            return (x[0] + v, *x[1:]) if isinstance(x, tuple) else x + v

        def after(module, word):
            v = self.tensor(f"deltas.layer{i}_{word}", 0.3, hidden)
            self.hook(module, lambda m, args, output: shifted(output, v))

        after(layer.self_attn, "pre_mlp")
        after(layer.mlp, "mlp")
        v = self.tensor(f"deltas.layer{i}_attn", 0.3, hidden)
        self.pre_hook(layer.mlp, lambda m, args: shifted(args, v))
        o = layer.self_attn.o_proj
        heads = self.tensor(f"deltas.layer{i}_heads", 0.3, self.heads, o.in_features // self.heads)
        self.pre_hook(o, lambda m, args: shifted(args, heads.flatten()))

    def pair(self, stem, n_in, n_out):
        a = self.tensor(f"{stem}.lora_A.weight", 1 / math.sqrt(n_in), RANK, n_in)
        b = self.tensor(f"{stem}.lora_B.weight", 0.3, n_out, RANK)
        return lambda x: ALPHA / RANK * (x @ a.T) @ b.T

    def add_lora(self, i, layer, config):
        stem = f"base_model.model.model.layers.{i}"
        for part, module in (("self_attn", layer.self_attn), ("mlp", layer.mlp)):
            for name, linear in module.named_children():
                if isinstance(linear, torch.nn.Linear):
                    self.add_product(f"{stem}.{part}", name, linear)
        if hasattr(layer.mlp, "experts"):
            is_mixtral = config.model_type == "mixtral"  # products by their names in the files
            self.add_experts(f"{stem}.block_sparse_moe.experts" if is_mixtral else
                             f"{stem}.mlp.experts", layer.mlp.experts,
                             ("w1", "w3", "w2") if is_mixtral else MLP)

    def add_product(self, stem, name, linear):
        parts = FUSED.get(name, (name,))
        total = sum(self.sizes.get(p, 1) for p in parts)
        deltas = [self.pair(f"{stem}.{p}", linear.in_features,
                            linear.out_features * self.sizes.get(p, 1) // total if len(parts) > 1
                            else linear.out_features) for p in parts]
        self.hook(linear, lambda m, args, output:
                  output + torch.cat([delta(args[0]) for delta in deltas], dim=-1))

    def add_experts(self, stem, experts, names):
        """The experts' forward, with LoRA on each one's products."""
        n_experts, n_gate_up, hidden = experts.gate_up_proj.shape
        inner = n_gate_up // 2
        gate, up, down = zip(*((self.pair(f"{stem}.{e}.{names[0]}", hidden, inner),
                                self.pair(f"{stem}.{e}.{names[1]}", hidden, inner),
                                self.pair(f"{stem}.{e}.{names[2]}", inner, hidden))
                               for e in range(n_experts)))
        plain = experts.forward

        def run(x, chosen, weights):
            out = torch.zeros_like(x)
            for e in range(n_experts):
                share = (weights * (chosen == e)).sum(-1, keepdim=True)
                g, u = (x @ experts.gate_up_proj[e].T).chunk(2, dim=-1)
                inside = experts.act_fn(g + gate[e](x)) * (u + up[e](x))
                out = out + share * (inside @ experts.down_proj[e].T + down[e](inside))
            return out
        experts.forward = run
        self.undo.append(lambda: setattr(experts, "forward", plain))


# --- What is computed -----------------------------------------------------------------------------

def logits_of(model, ids):
    return model(torch.tensor([ids]), use_cache=False).logits[0]


def all_logits(model, seqs):
    with torch.no_grad():
        return torch.cat([logits_of(model, s["ids"]) for s in seqs])


def loss_of(model, seqs):
    """Cross-entropy averaged over the supervised tokens of all sequences."""
    total, count = 0.0, 0
    for seq in seqs:
        first, targets = seq["prompt_len"], torch.tensor(seq["ids"][seq["prompt_len"]:])
        rows = logits_of(model, seq["ids"])[first - 1:len(seq["ids"]) - 1]
        total = total + torch.nn.functional.cross_entropy(rows, targets, reduction="sum")
        count += len(targets)
    return total / count


def greedy(model, prompt, n_new):
    """With the cache; the smallest distance between the best and the next logit."""
    ids, step, cache, margin = list(prompt), list(prompt), None, math.inf
    for _ in range(n_new):
        with torch.no_grad():
            out = model(torch.tensor([step]), past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        top = torch.topk(out.logits[0, -1], 2)
        margin = min(margin, float(top.values[0] - top.values[1]))
        step = [int(top.indices[0])]
        ids += step
    return ids[len(prompt):], margin


def agrees_uncached(model, prompt, new):
    with torch.no_grad():
        rows = logits_of(model, list(prompt) + new)[len(prompt) - 1:-1]
    return rows.argmax(-1).tolist() == new


class RouterMargins:
    """The smallest distance of a chosen expert's logit from that of one that is not."""

    def __init__(self, model):
        self.least = math.inf
        for layer in text_part(model).layers:
            if hasattr(layer.mlp, "experts"):
                layer.mlp.gate.register_forward_hook(self.look)

    def look(self, module, args, output):
        top = torch.topk(args[0].reshape(-1, module.hidden_dim) @ module.weight.T,
                         module.top_k + 1).values
        self.least = min(self.least, float((top[:, -2] - top[:, -1]).min().detach()))


def full_gradients(model, seqs):
    """Loss and gradients of all weights: [name, length, sum g[i] cos(i), shape...]."""
    model.requires_grad_(True)
    loss = loss_of(model, seqs)
    loss.backward()
    rows = []
    for name, p in model.named_parameters():
        g = p.grad.double().flatten()
        along = torch.cos(torch.arange(len(g), dtype=torch.float64)) @ g
        rows.append([name, float(g.norm()), float(along), *p.shape])
        p.grad = None
    model.requires_grad_(False)
    return dict(loss=float(loss.detach()), tensors=rows)


class Unfit(Exception):
    """Random values that show nothing, or not clearly."""


def compute(model, seqs, values, rng, is_full):
    """Logits, losses and gradients: golden, tensors."""
    tensors = {"logits": all_logits(model, seqs)}
    with torch.no_grad():
        golden = dict(base_loss=float(loss_of(model, seqs)), variants=[])
    if is_full:
        golden["full"] = full_gradients(model, seqs)
    for name, method in VARIANTS.items():
        adapter = Adapter(model, name, values, rng)
        loss = loss_of(model, seqs)
        loss.backward()
        adapter.remove()
        tensors.update({f"{name}.{key}": p.grad.clone() for key, p in adapter.tensors.items()})
        shapes = [[key, *p.shape] for key, p in adapter.tensors.items()]
        golden["variants"].append(dict(name=name, method=method, loss=float(loss.detach()),
                                       tensors=shapes))
    return golden, tensors


@contextlib.contextmanager
def factors_of(model, is_long):
    """The long factors of longrope in sequences of any length."""
    if not is_long:
        yield
        return
    rope = text_part(model).rotary_emb
    kept = rope.original_inv_freq
    rope.original_inv_freq = ROPE_INIT_FUNCTIONS["longrope"](
        model.config, None, seq_len=model.config.original_max_position_embeddings + 1)[0]
    yield
    rope.original_inv_freq = kept


def generate(model, groups, values):
    """Greedy ids of every prompt without adapter and with each variant: rows, margins by prompt."""
    runs, margins = [], {}
    for name in [None, *VARIANTS]:
        adapter = Adapter(model, name, values, None) if name else None
        rows = []
        for g, group in enumerate(groups):
            for p, prompt in enumerate(group["prompts"]):
                with factors_of(model, group["long"]):
                    new, margin = greedy(model, prompt, group["n_new"])
                    agrees = agrees_uncached(model, prompt, new)
                if not agrees:
                    raise Unfit("generation depends on the cache")
                margins[g, p] = min(margin, margins.get((g, p), math.inf))
                rows.append(new)
        if adapter:
            adapter.remove()
        runs.append(dict(variant=name, ids=rows))
    return runs, margins


def choose_prompts(model, case, values, rng):
    """For each length the first prompt whose every step is decided by more than rounding."""
    groups = []
    for group in case["generation"]:
        chosen = []
        for length in group["lengths"]:
            candidates = [draw_ids(rng, case["config"]["vocab_size"], length)
                          for _ in range(N_CANDIDATES)]
            rest = dict(n_new=group["n_new"], long=group.get("long", False))
            tried = [dict(prompts=candidates, **rest)]
            margins = generate(model, tried, values)[1]
            clear = [c for i, c in enumerate(candidates) if margins[0, i] > MARGIN]
            if not clear:
                raise Unfit("near ties in generation")
            chosen.append(clear[0])
        groups.append(dict(prompts=chosen, **rest))
    return groups


# --- What a recording must show -------------------------------------------------------------------

def distance(a, b):
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))


def check_features(where, case, seqs, logits):
    for change in case["off"] + case["faint"]:
        other = all_logits(open_model(where, config=changed_config(where, change)), seqs)
        if distance(other, logits) < (SHOWS if change in case["off"] else SHOWS_FAINTLY):
            raise Unfit(f"{change} shows by {distance(other, logits):.1e}")
    model = open_model(where)
    offset = norm_offset(model.config)
    kinds = {}
    for name, p in text_part(model).named_parameters():
        kind = ".".join(w for w in name.split(".") if not w.isdigit())
        if is_norm(name) or kind.endswith("bias") or ".gate.weight" in kind:
            kinds.setdefault(kind, []).append(p)
    for kind, ps in kinds.items():
        kept = [p.detach().clone() for p in ps]
        for p in ps:
            p.data.fill_(1 - offset if is_norm(kind) else 0)
        found = distance(all_logits(model, seqs), logits)
        # A bias of keys adds the same to all scores of a query, but for the rotation.
        if found < (SHOWS if "k_proj.bias" not in kind else SHOWS / 10):
            raise Unfit(f"{kind} shows by {found:.1e}")
        for p, value in zip(ps, kept):
            p.data.copy_(value)


def worst_of_full(a, b):
    least = max(y[1] for y in b["tensors"]) / 100  # biases of keys without rotation have none
    return max((max(abs(x[1] - y[1]), abs(x[2] - y[2])) / max(y[1], least), x[0])
               for x, y in zip(a["tensors"], b["tensors"], strict=True))


def check_clear(where, seqs, values, golden, tensors):
    """Against the same in double, where transformers computes in the parameters' precision."""
    other, others = compute(open_model(where, torch.float64), seqs, values, None, "full" in golden)
    worst = max((distance(t.double(), others[k]), k) for k, t in tensors.items())
    losses = [(v["loss"], w["loss"]) for v, w in zip(golden["variants"], other["variants"])]
    worst = max([worst] + [(abs(a - b) / abs(b), "loss") for a, b in losses])
    if "full" in golden:
        worst = max(worst, worst_of_full(golden["full"], other["full"]))
    if worst[0] > CONDITIONED:
        raise Unfit(f"rounding shows in {worst[1]}: {worst[0]:.1e}")
    return worst


# --- Files ----------------------------------------------------------------------------------------

def draw_ids(rng, vocab, n):
    return torch.randint(3, vocab, (n,), generator=rng).tolist()


def attempt(name, case, draw, where):
    rng = torch.Generator().manual_seed(zlib.crc32(f"{name} {draw}".encode()))
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir(parents=True)
    make_model(case, rng).save_pretrained(where)
    (where / "generation_config.json").unlink(missing_ok=True)
    model, values = open_model(where), {}
    seqs = [dict(ids=draw_ids(rng, case["config"]["vocab_size"], n), prompt_len=p)
            for n, p in zip(case["lengths"], (4, 2))]
    check_features(where, case, seqs, all_logits(model, seqs))
    routers = RouterMargins(model)
    golden, tensors = compute(model, seqs, values, rng, case["full"])
    worst = check_clear(where, seqs, values, golden, tensors)
    prompts = choose_prompts(model, case, values, rng)
    runs, _ = generate(model, prompts, values)
    if routers.least < 10 * CONDITIONED:
        raise Unfit(f"near ties of experts: {routers.least:.1e}")
    print(f"{name}: draw {draw}, losses {golden['base_loss']:.3f} "
          f"{[round(v['loss'], 3) for v in golden['variants']]}, logits to "
          f"{float(tensors['logits'].abs().max()):.2f}, worst {worst[0]:.1e} at {worst[1]}",
          flush=True)
    return dict(sequences=seqs, prompts=prompts, **golden, runs=runs), tensors, values


def flat(names, tensors, dtype):
    return torch.cat([tensors[name].flatten() for name in names]).to(dtype)


def write_golden(where, golden, tensors, values):
    """golden.json with one sequence, variant or run a line, and golden.safetensors."""
    lines = []
    for key, value in golden.items():
        rows = ",\n  ".join(json.dumps(row) for row in value) if isinstance(value, list) else None
        lines.append(f' "{key}": ' + (f"[\n  {rows}]" if rows else json.dumps(value)))
    (where / "golden.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    kept = {"logits": tensors["logits"].contiguous()}
    for variant in golden["variants"]:
        name, keys = variant["name"], [row[0] for row in variant["tensors"]]
        kept[f"{name}.params"] = flat(keys, values, torch.bfloat16)
        kept[f"{name}.grads"] = flat([f"{name}.{key}" for key in keys], tensors, torch.float32)
    save_file(kept, where / "golden.safetensors")


def read_values(where):
    """Adapter tensors of all variants by name."""
    golden, out = json.loads((where / "golden.json").read_text()), {}
    stored = load_file(where / "golden.safetensors")
    for variant in golden["variants"]:
        sizes = [math.prod(row[1:]) for row in variant["tensors"]]
        parts = stored[variant["name"] + ".params"].split(sizes)
        out.update({row[0]: part.view(row[1:]) for row, part in zip(variant["tensors"], parts)})
    return golden, out


def write_spelling(case_dir, where, rewrite_config, rewrite_tensors=None, is_recorded=True):
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir(parents=True)
    config = json.loads((case_dir / "config.json").read_text())
    (where / "config.json").write_text(json.dumps(rewrite_config(config), indent=2) + "\n")
    links = ["golden.json", "golden.safetensors"] if is_recorded else []
    if rewrite_tensors:
        tensors = rewrite_tensors(load_file(case_dir / "model.safetensors"), config)
        save_file(tensors, where / "model.safetensors", metadata={"format": "pt"})
    else:
        links.append("model.safetensors")
    for link in links:
        os.symlink(f"../{case_dir.name}/{link}", where / link)


def check_spelling(case_dir, where):
    """transformers reads the same model."""
    seqs = json.loads((case_dir / "golden.json").read_text())["sequences"]
    found = distance(all_logits(open_model(where), seqs), all_logits(open_model(case_dir), seqs))
    if found > 1e-6:
        raise SystemExit(f"{where.name}: another model, by {found:.1e}")


def record(name, case, out):
    for draw in range(N_DRAWS):
        try:
            recorded = attempt(name, case, draw, out / name)
            break
        except Unfit as why:
            print(f"{name}: draw {draw}: {why}", flush=True)
    else:
        raise SystemExit(f"{name}: no draw fits")
    write_golden(out / name, *recorded)
    for spelling, rewrites in SPELLINGS.get(name, {}).items():
        where = out / f"{name}_{spelling}"
        write_spelling(out / name, where, *rewrites)
        check_spelling(out / name, where)
    for path in out.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o644)


def saves_the_same(model, where):
    """save_pretrained writes the committed config.json, and the tensors to the bit."""
    with tempfile.TemporaryDirectory() as again:
        model.to(torch.bfloat16).save_pretrained(again)
        configs = [json.loads(pathlib.Path(d, "config.json").read_text()) for d in (where, again)]
        files = [load_file(f"{d}/model.safetensors") for d in (where, again)]
    return (configs[0] == configs[1] and files[0].keys() == files[1].keys() and
            all(torch.equal(t, files[1][name]) for name, t in files[0].items()))


def record_again(name):
    """Perhaps on another machine: nothing may differ by more than half of what the test allows."""
    committed, values = read_values(OUT / name)
    stored = load_file(OUT / name / "golden.safetensors")
    model, seqs = open_model(OUT / name), committed["sequences"]
    golden, tensors = compute(model, seqs, values, None, "full" in committed)
    found = []
    if "full" in committed:
        found = [worst_of_full(golden["full"], committed["full"])]
    found += [(distance(tensors["logits"], stored["logits"]), "logits"),
              (abs(golden["base_loss"] / committed["base_loss"] - 1), "base_loss")]
    for old, new in zip(committed["variants"], golden["variants"], strict=True):
        assert old | {"loss": 0} == new | {"loss": 0}, f"{name}: variant {new['name']}"
        found.append((abs(new["loss"] / old["loss"] - 1), new["name"]))
        sizes = [math.prod(row[1:]) for row in old["tensors"]]
        parts = stored[old["name"] + ".grads"].split(sizes)
        for row, part in zip(old["tensors"], parts, strict=True):
            key = f"{old['name']}.{row[0]}"
            found.append((distance(tensors[key].flatten(), part), key))
    runs, _ = generate(model, committed["prompts"], values)
    if max(found)[0] > AGAIN:
        raise SystemExit(f"{name}: {max(found)[1]} differs by {max(found)[0]:.1e}")
    if runs != committed["runs"]:
        raise SystemExit(f"{name}: other ids are generated")
    if not saves_the_same(model, OUT / name):
        raise SystemExit(f"{name}: save_pretrained writes something else")
    print(f"{name}: recorded again with transformers {transformers.__version__}")
    print(f"largest difference {max(found)[0]:.1e} in {max(found)[1]}", file=sys.stderr)


def write_model(where, name, vocab, spelling=None):
    case = copy.deepcopy(CASES[name])
    case["config"].update(vocab_size=vocab, max_position_embeddings=512)
    plain = where.with_name(where.name + ".plain") if spelling else where
    make_model(case, torch.Generator().manual_seed(1)).save_pretrained(plain)
    if spelling:
        write_spelling(plain, where, *SPELLINGS[name][spelling], is_recorded=False)


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    arguments = sys.argv[1:]
    if arguments[:1] == ["--again"]:
        for case_name in arguments[1:]:
            record_again(case_name)
    elif arguments[:1] == ["--model"]:
        write_model(pathlib.Path(arguments[1]), arguments[2], int(arguments[3]), *arguments[4:])
    else:
        for case_name in arguments or CASES:
            record(case_name, DEFAULTS | CASES[case_name], OUT)
