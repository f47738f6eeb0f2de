"""Records configurations of every family as transformers reads them, for tests/unit/test_spec_families.c.

Run by hand:  python tests/golden/record_spec.py > tests/golden/spec_families.jsonl
Pinned: torch 2.13.0, transformers 5.23.0 (any CPU build). One JSON object a line: the config.json
(draws of settings that transformers accepts, keys left out at random), and what its classes make
of them: parameters (of one configuration a family, names and shapes of all tensors), the window and the rotation of each layer,
scales, caps, biases, experts.
"""

import json
import math
import os
import random
import sys
import tempfile

import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

assert transformers.__version__ == "5.23.0"
transformers.logging.set_verbosity_error()
N_EACH = 10
UNTIED = 4  # of gemma3's draws, which tie else
BIG_HEADS = ("qwen3", "gemma", "gemma2", "gemma3", "gemma3_text")  # unless it is given


def maybe(config, rng, key, *values):
    if rng.random() < 0.6:
        config[key] = rng.choice(values)


def draw_rope(family, rng, config, dim):
    """RoPE in one of the two spellings."""
    kind = rng.choice(["none", "default", "linear", "llama3", "yarn", "longrope"])
    if family == "phi3":
        kind = rng.choice(["none", "longrope", "longrope"])
    if family == "mixtral" and "head_dim" not in config:
        kind = rng.choice(["none", "default"])  # transformers divides nothing by nothing
    theta = rng.choice([10000.0, 500000.0, 1e6])
    rope = {}
    if kind != "none":
        rope["rope_type"] = kind
    if kind in ("linear", "llama3", "yarn"):
        rope["factor"] = rng.choice([2.0, 4, 8.0])
    if kind == "llama3":
        rope.update(low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
    if kind == "yarn":
        rope["original_max_position_embeddings"] = rng.choice([32, 128])
        maybe(rope, rng, "beta_fast", 16, 32.0)
        maybe(rope, rng, "beta_slow", 2)
        if rng.random() < 0.4:
            rope.update(mscale=1.0, mscale_all_dim=0.7)
        elif rng.random() < 0.4:
            rope["attention_factor"] = 1.25
        if family not in ("gemma3", "gemma3_text"):  # there transformers looks for it elsewhere
            maybe(rope, rng, "truncate", False)
    if kind == "longrope":
        if family == "phi3":
            config["original_max_position_embeddings"] = 64
        else:
            rope["original_max_position_embeddings"] = 64
        rope["short_factor"] = [round(1 + rng.random(), 3) for _ in range(dim // 2)]
        rope["long_factor"] = [round(4 + 8 * rng.random(), 3) for _ in range(dim // 2)]
        maybe(rope, rng, "attention_factor", 1.125)
    old = rng.random() < 0.5
    if family in ("gemma3", "gemma3_text"):
        if old:
            maybe(config, rng, "rope_theta", theta)
            maybe(config, rng, "rope_local_base_freq", 20000.0)
            if rope:
                config["rope_scaling"] = rope
        elif rng.random() < 0.7:
            config["rope_parameters"] = {
                "full_attention": {"rope_type": "default", **rope, "rope_theta": theta},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0}}
        return
    if old:
        maybe(config, rng, "rope_theta", theta)
        if rope:
            if rng.random() < 0.5:
                rope["type"] = rope.pop("rope_type")
            config["rope_scaling"] = rope
    elif rng.random() < 0.7:
        config["rope_parameters"] = {"rope_type": "default", **rope, "rope_theta": theta}


def draw(family, rng):
    n_layers = rng.choice([3, 4, 7])
    heads = rng.choice([4, 8])
    config = {"hidden_size": heads * 8, "intermediate_size": 48, "num_hidden_layers": n_layers,
              "num_attention_heads": heads, "vocab_size": 96, "pad_token_id": 0}
    config["num_key_value_heads"] = rng.choice([1, 2, 4])
    if family in BIG_HEADS or (family != "phi3" and rng.random() < 0.7):
        config["head_dim"] = rng.choice([8, 16])
    maybe(config, rng, "max_position_embeddings", 256, 4096)
    if family == "phi3":
        config["max_position_embeddings"] = 256
    maybe(config, rng, "rms_norm_eps", 1e-5, 1e-6, 2e-6)
    maybe(config, rng, "tie_word_embeddings", True, False)
    maybe(config, rng, "bos_token_id", 3)
    config["eos_token_id"] = rng.choice([4, [4, 5]])
    biased = ("llama", "qwen3", "gemma", "gemma2", "gemma3_text", "gemma3", "smollm3", "olmo2",
              "granite", "qwen3_moe")
    if family in biased:
        maybe(config, rng, "attention_bias", True, False)
    if family in ("llama", "smollm3", "granite"):
        maybe(config, rng, "mlp_bias", True, False)
    if family in ("mistral", "mixtral", "phi3"):
        maybe(config, rng, "sliding_window", 5, None)
    if family in ("qwen2", "qwen3", "qwen3_moe", "smollm3"):
        maybe(config, rng, "use_sliding_window", True, True, False)
        maybe(config, rng, "sliding_window", 5)
        if family in ("qwen2", "qwen3"):
            maybe(config, rng, "max_window_layers", 0, 2, 28)
    types = ["full_attention", "sliding_attention"]
    if family in ("qwen2", "qwen3", "smollm3") and config.get("use_sliding_window") and \
            config.get("sliding_window"):
        if rng.random() < 0.4:
            config["layer_types"] = [rng.choice(types) for _ in range(n_layers)]
    if family in ("gemma2", "gemma3", "gemma3_text"):
        maybe(config, rng, "sliding_window", 5, 6)
        maybe(config, rng, "query_pre_attn_scalar", 24, 10)
        maybe(config, rng, "attn_logit_softcapping", 20.0, None)
        maybe(config, rng, "final_logit_softcapping", 10.0, None)
        if family != "gemma2" and rng.random() < 0.4:
            config["sliding_window_pattern"] = 3
        elif rng.random() < 0.4:
            config["layer_types"] = [rng.choice(types) for _ in range(n_layers)]
            config["layer_types"][:2] = types  # its rotary class wants one of each kind
    if family == "smollm3":
        if rng.random() < 0.4:
            config["no_rope_layers"] = [rng.choice([0, 1]) for _ in range(n_layers)]
        maybe(config, rng, "no_rope_layer_interval", 2, 3)
    if family == "granite":
        for key, value in (("embedding_multiplier", 12), ("attention_multiplier", 0.015625),
                           ("residual_multiplier", 0.22), ("logits_scaling", 8.0)):
            maybe(config, rng, key, value)
    if family in ("mixtral", "qwen3_moe"):
        config[rng.choice(["num_local_experts", "num_experts"])] = rng.choice([2, 4])
        config["num_experts_per_tok"] = rng.choice([1, 2])
    if family == "qwen3_moe":
        config["moe_intermediate_size"] = 24
        maybe(config, rng, "norm_topk_prob", True, False)
        maybe(config, rng, "decoder_sparse_step", 1, 2)
        maybe(config, rng, "mlp_only_layers", [], [1], [0, 2])
    dim = config.get("head_dim", config["hidden_size"] // heads)
    if family == "phi3" and rng.random() < 0.5:
        config["partial_rotary_factor"] = 0.5
        dim //= 2
    draw_rope(family, rng, config, dim)
    return config


def frequencies(rotary, prefix, config):
    if not hasattr(rotary, prefix + "inv_freq"):
        return None  # no layer of the kind
    inv_freq = getattr(rotary, prefix + "inv_freq").tolist()
    scaling = float(getattr(rotary, prefix + "attention_scaling"))
    rope = config.rope_parameters
    rope = rope.get(prefix.rstrip("_"), rope) if prefix else rope
    long = None
    if rope["rope_type"] == "longrope":
        function = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["longrope"]
        layer_type = {"layer_type": prefix.rstrip("_")} if prefix else {}
        long = function(config, None, seq_len=10 ** 6, **layer_type)[0].tolist()
    return {"inv_freq": inv_freq, "long": long, "scaling": scaling}


def window_of(layer, attention, family, config):
    """The window, as the mask and the attention module see it."""
    if family in ("mistral", "mixtral", "phi3", "qwen3_moe"):
        return config.sliding_window or 0
    kinds = getattr(config, "layer_types", None)
    if kinds is None or kinds[layer] == "full_attention":
        return 0
    assert attention.sliding_window == config.sliding_window
    return config.sliding_window


def interpret(family, config):
    """What the classes make of a config.json."""
    with tempfile.TemporaryDirectory() as path:
        with open(os.path.join(path, "config.json"), "w") as file:
            json.dump(config, file)
        read = AutoConfig.from_pretrained(path)
    kind = AutoModelForImageTextToText if family == "gemma3" else AutoModelForCausalLM
    model = kind.from_config(read, attn_implementation="eager")
    text = read.get_text_config()
    body = model.model.language_model if family == "gemma3" else model.model
    with tempfile.TemporaryDirectory() as path:
        model.save_pretrained(path)
        from safetensors import safe_open
        with safe_open(os.path.join(path, "model.safetensors"), "pt") as file:
            tensors = {k: list(file.get_slice(k).get_shape()) for k in file.keys()
                       if "vision_tower" not in k and "multi_modal" not in k}
    layers = []
    for i, layer in enumerate(body.layers):
        attention = layer.self_attn
        layers.append([window_of(i, attention, family, text),
                       int(bool(getattr(attention, "use_rope", True))),
                       int(hasattr(layer.mlp, "experts"))])
    first = body.layers[0].self_attn
    rotary = body.rotary_emb
    local = family in ("gemma3", "gemma3_text")
    eos = text.eos_token_id if text.eos_token_id is not None else []
    out = {
        "n_layers": text.num_hidden_layers, "max_positions": text.max_position_embeddings,
        "n_heads": text.num_attention_heads, "n_kv_heads": text.num_key_value_heads,
        "head_dim": first.head_dim, "norm_eps": text.rms_norm_eps,
        "tied": model.get_output_embeddings().weight is model.get_input_embeddings().weight,
        "attention_scale": float(first.scaling),
        "attention_cap": getattr(text, "attn_logit_softcapping", None) or 0,
        "logit_cap": getattr(text, "final_logit_softcapping", None) or 0,
        "embed_scale": getattr(body.embed_tokens, "scalar_embed_scale",
                               getattr(text, "embedding_multiplier", 1.0)),
        "residual_scale": getattr(text, "residual_multiplier", 1.0),
        "logit_scale": 1 / getattr(text, "logits_scaling", 1.0),
        "n_experts": getattr(text, "num_local_experts", 0) or 0,
        "n_experts_per_token": getattr(text, "num_experts_per_tok", 0) or 0,
        "sums_experts_to_one": family == "mixtral" or bool(getattr(text, "norm_topk_prob", False)),
        "bos": -1 if text.bos_token_id is None else text.bos_token_id,
        "eos": eos if isinstance(eos, list) else [eos],
        "rope": frequencies(rotary, "full_attention_" if local else "", text),
        "rope_local": frequencies(rotary, "sliding_attention_", text) if local else None,
        "layers": layers,  # window, rotates, has experts
        "n_params": sum(math.prod(shape) for shape in tensors.values()),
    }
    return out, tensors


def rounded(value):
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, list):
        return [rounded(v) for v in value]
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return value


FAMILIES = ("llama mistral qwen2 qwen3 gemma gemma2 gemma3_text gemma3 phi3 smollm3 olmo2 granite "
            "mixtral qwen3_moe").split()
TINY_VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
               "num_attention_heads": 2, "image_size": 28, "patch_size": 14}

if __name__ == "__main__":
    for family in sys.argv[1:] or FAMILIES:
        rng = random.Random(family)
        for i in range(N_EACH):
            config = draw(family, rng)
            if family == "gemma3":
                tie = config.pop("tie_word_embeddings", True) and i != UNTIED
                config = {"model_type": family, "text_config": config, "mm_tokens_per_image": 4,
                          "vision_config": TINY_VISION, "tie_word_embeddings": tie}
                config["text_config"]["tie_word_embeddings"] = tie
            else:
                config = {"model_type": family, **config}
            spec, tensors = interpret(family, config)
            line = {"config": config, "spec": rounded(spec)}
            if i == 0 or (family == "gemma3" and i == UNTIED):
                line["tensors"] = tensors
            print(json.dumps(line, separators=(",", ":")))
