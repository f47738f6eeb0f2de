#!/usr/bin/env python3
"""Records models whose files hold their weights as FP8 or in GGUF, as further cases of families.

    python record_storage.py [CASE...]         writes tests/golden/families/<case>/

Besides requirements.txt this needs the package gguf 0.19.0. The weights of record_families.py's kind
are rounded to the storage by other hands than trimtab's (torch.float8_e4m3fn; gguf.quants), and the
reference, computed as for every family, is transformers with what the stored numbers stand for, in
fp32. Tensors of a GGUF file have the names that gguf's own tables give them, the order of rows of q
and k and the offset of norms that llama.cpp's converter gives them; transformers' own reader of GGUF
files must make the same model of the file. Read by tests/golden/test_families.c.
"""

import json
import math
import pathlib
import shutil
import sys
import tempfile

import gguf
import numpy as np
import torch
import transformers
from safetensors.torch import save_file

import record_families as families

F8 = torch.float8_e4m3fn


def wide(model_type, **keys):
    """Rows of whole Q8_0 blocks."""
    return families.sized(model_type, **dict(dict(hidden_size=32, intermediate_size=64), **keys))


def unlike(factor_rows, factor_cols):
    """Weights of sizes that differ from block to block, so that each factor matters."""
    def scale(x):
        rows = torch.arange(x.shape[0]) // factor_rows
        cols = torch.arange(x.shape[1]) // factor_cols
        return x * (1 + ((rows[:, None] * 3 + cols[None, :] * 5) % 4) * 0.4)
    return scale


# --- FP8 ------------------------------------------------------------------------------------------

def to_fp8(x, block):
    """Codes and factors of an [n, m] matrix in blocks [a, b]."""
    n, m = x.shape
    a, b = block
    factors = torch.empty((-(-n // a), -(-m // b)))
    for i in range(factors.shape[0]):
        for k in range(factors.shape[1]):
            factors[i, k] = x[i * a:(i + 1) * a, k * b:(k + 1) * b].abs().max() / 448
    spread = factors.repeat_interleave(a, 0)[:n].repeat_interleave(b, 1)[:, :m]
    return (x / spread).to(F8), factors


def from_fp8(codes, factors, block):
    n, m = codes.shape
    spread = factors.float().repeat_interleave(block[0], 0)[:n].repeat_interleave(block[1], 1)[:, :m]
    return codes.float() * spread


def is_product(name, tensor):
    return tensor.dim() == 2 and "embed" not in name and "lm_head" not in name


def fp8_blocks(tensors, case):
    """As DeepSeek and Qwen3 publish them; o_proj is left as it is. Factors in two types."""
    stored, plain = {}, {}
    for name, x in tensors.items():
        if is_product(name, x) and "o_proj" not in name:
            codes, factors = to_fp8(unlike(*case["block"])(x), case["block"])
            if "down_proj" in name:
                factors = factors.bfloat16()
            stored[name], stored[name + "_scale_inv"] = codes, factors
            plain[name] = from_fp8(codes, factors, case["block"])
        else:
            stored[name] = plain[name] = x
    quantization = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                    "modules_to_not_convert": ["lm_head", "model.layers.0.self_attn.o_proj"],
                    "weight_block_size": case["block"]}
    return stored, plain, quantization


def fp8_rows(tensors, case):
    """compressed-tensors: a factor for each row, or (the MLP of layer 0) for each tensor."""
    stored, plain = {}, {}
    for name, x in tensors.items():
        if is_product(name, x):
            block = x.shape if "layers.0.mlp" in name else (1, x.shape[1])
            codes, factors = to_fp8(unlike(1, x.shape[1])(x), block)
            stored[name], stored[name + "_scale"] = codes, factors if factors.numel() > 1 else factors[0]
            stored[name.removesuffix("weight") + "input_scale"] = torch.ones(1)
            plain[name] = from_fp8(codes, factors, block)
        else:
            stored[name] = plain[name] = x
    weights = {"actorder": None, "block_structure": None, "dynamic": False, "group_size": None,
               "num_bits": 8, "observer": "minmax", "observer_kwargs": {}, "strategy": "channel",
               "symmetric": True, "type": "float"}
    quantization = {"config_groups": {"group_0": {"input_activations": dict(weights, strategy="tensor"),
                                                  "output_activations": None, "targets": ["Linear"],
                                                  "weights": weights}},
                    "format": "float-quantized", "ignore": ["lm_head"], "kv_cache_scheme": None,
                    "quant_method": "compressed-tensors", "quantization_status": "compressed"}
    return stored, plain, quantization


# --- GGUF -----------------------------------------------------------------------------------------

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "granite": "granite",
                 "smollm3": "smollm3", "gemma3_text": "gemma3", "qwen3_moe": "qwen3moe",
                 "phi3": "phi3"}
INTERLEAVED = ("llama", "granite", "smollm3")


def interleave(x, n_heads):
    """Rows of each head from two halves to pairs, as the converter turns them."""
    return x.reshape(n_heads, 2, -1, *x.shape[1:]).transpose(1, 2).reshape(x.shape)


def experts_of(name, x):
    """transformers keeps a layer's experts together, gate and up in one."""
    stem = name.rsplit(".", 1)[0]
    if name.endswith("experts.gate_up_proj"):
        gate, up = x.chunk(2, dim=1)
        return {f"{stem}.gate_proj.weight": gate, f"{stem}.up_proj.weight": up}
    return {f"{stem}.down_proj.weight": x}


EXPERT_NAMES = {"gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps"}


def gguf_name(table, name):
    if ".experts." in name:
        layer, which = name.split(".")[2], name.split(".")[-2]
        return f"blk.{layer}.{EXPERT_NAMES[which]}.weight"
    if name.endswith("mlp.gate.weight"):
        return f"blk.{name.split('.')[2]}.ffn_gate_inp.weight"
    stem, suffix = name.rsplit(".", 1)
    return f"{table.get_name(stem)}.{suffix}"


def round_to(x, kind):
    """What is stored, and what it stands for."""
    data = gguf.quants.quantize(x.float().contiguous().numpy(), kind)
    return data, torch.from_numpy(np.array(gguf.quants.dequantize(data, kind)).reshape(x.shape)).float()


def kind_of(name, x, case):
    kinds = gguf.GGMLQuantizationType
    if x.dim() == 1 or "ffn_gate_inp" in name:
        return kinds.F32
    return {"attn_v": kinds.F16, "attn_k": kinds.BF16}.get(name.split(".")[-2], kinds.Q8_0) \
        if case["mixed"] else kinds.Q8_0


def one_by_one(tensors):
    """Tensors as the converter takes them: experts by role."""
    for name, x in tensors.items():
        yield from experts_of(name, x).items() if ".experts." in name else [(name, x)]


def write_gguf(tensors, case, config, path):
    """Writes the file; returns what its tensors stand for, by transformers' names."""
    arch = ARCHITECTURES[config.model_type]
    table = gguf.get_tensor_name_map(
        [k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == arch][0], config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, arch)
    describe(writer, config)
    plain, parts = {}, {}
    for name, x in one_by_one(tensors):
        own = gguf_name(table, name)
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        heads = heads.get(name.split(".")[-2]) if arch in INTERLEAVED else None
        offset = families.norm_offset(config) if families.is_norm(name) else 0
        turned = (interleave(x, heads) if heads else x).float() + offset
        kind = kind_of(own, turned, case)
        data, meant = round_to(turned, kind)
        writer.add_tensor(own, data, raw_dtype=kind)
        if heads:
            meant = meant.reshape(heads, -1, 2, *meant.shape[1:]).transpose(1, 2).reshape(meant.shape)
        (parts if ".experts." in name else plain)[name] = meant - offset
    for name in [n for n in tensors if ".experts." in n]:
        stem = name.rsplit(".", 1)[0]
        plain[name] = torch.cat([parts[f"{stem}.gate_proj.weight"], parts[f"{stem}.up_proj.weight"]], 1) \
            if name.endswith("gate_up_proj") else parts[f"{stem}.down_proj.weight"]
    if config.rope_parameters.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", divisors(config))
    for kind in ("short", "long"):
        if kind + "_factor" in config.rope_parameters:
            writer.add_tensor(f"rope_factors_{kind}.weight",
                              np.array(config.rope_parameters[kind + "_factor"], dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return plain


def head_dim(config):
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def divisors(config):
    """Of RoPE's frequencies, from transformers' own."""
    rope = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
    dim = head_dim(config)
    plain = 1 / config.rope_parameters["rope_theta"] ** (torch.arange(0, dim, 2).float() / dim)
    return (plain / rope.inv_freq).numpy()


def describe(writer, config):
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(head_dim(config))
    writer.add_value_length(head_dim(config))
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if config.model_type != "gemma3_text":
        writer.add_rope_dimension_count(int(head_dim(config) * rope.get("partial_rotary_factor", 1)))
    if config.model_type in ("gemma3_text", "phi3"):
        writer.add_sliding_window(config.sliding_window or 0)
    if rope["rope_type"] == "longrope":
        longer = config.max_position_embeddings / config.original_max_position_embeddings
        writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
        writer.add_rope_scaling_attn_factors(
            math.sqrt(1 + math.log(longer) / math.log(config.original_max_position_embeddings)))
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if config.model_type == "granite":
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"<{i}>" for i in range(config.vocab_size)])
    writer.add_token_scores([0.0] * config.vocab_size)
    writer.add_token_types([1] * config.vocab_size)


def check_reader(path, plain):
    """transformers makes the same weights of the file."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32,
        config=transformers.AutoConfig.from_pretrained(path.parent))
    found = model.state_dict()
    for name, x in plain.items():
        if not torch.equal(found[name], x):
            raise SystemExit(f"{path}: {name}: transformers reads other numbers, by "
                             f"{float((found[name] - x).abs().max()):.1e}")
    print(f"{path.parent.name}: transformers reads the same {len(plain)} tensors", flush=True)


# --- Cases ----------------------------------------------------------------------------------------

CASES = {
    # A narrow head, whose last block is short; blocks that do not divide any matrix.
    "fp8_blocks": dict(
        config=wide("llama", hidden_size=72, intermediate_size=84, head_dim=12,
                    rope_parameters=families.PLAIN, attention_bias=True),
        off=[], form=fp8_blocks, block=[16, 64]),
    "fp8_rows": dict(
        config=wide("llama", rope_parameters=families.PLAIN, tie_word_embeddings=True),
        off=[], form=fp8_rows),
    # Llama 3: rows of q and k turned, their biases too; divisors of RoPE as a tensor.
    "gguf_llama": dict(
        config=wide("llama", head_dim=16, attention_bias=True, rope_parameters=families.LLAMA3),
        off=[{"rope_parameters": families.PLAIN}], mixed=True),
    "gguf_granite": dict(
        config=wide("granite", rope_parameters=families.PLAIN, embedding_multiplier=3.0,
                    logits_scaling=4.0, residual_multiplier=0.6, attention_multiplier=0.2,
                    tie_word_embeddings=True),
        off=[], mixed=False, unread=True), # transformers reads no GGUF files of Granite
    # Norms with an offset, of heads too.
    "gguf_gemma3": dict(
        config=wide("gemma3_text", num_hidden_layers=7, num_attention_heads=2, num_key_value_heads=1,
                    head_dim=16, sliding_window=6, query_pre_attn_scalar=5,
                    rope_parameters=families.GEMMA3_ROPE),
        off=[], mixed=False),
    # Experts as one tensor for each role.
    "gguf_qwen3_moe": dict(
        config=wide("qwen3_moe", head_dim=16, moe_intermediate_size=32, num_experts=4,
                    num_experts_per_tok=2, norm_topk_prob=True, rope_parameters=families.PLAIN),
        off=[], mixed=True),
    # Fused products stay fused; divisors of both ranges as tensors, half of a head rotated.
    "gguf_phi3": dict(
        config=wide("phi3", original_max_position_embeddings=14, max_position_embeddings=64,
                    rope_parameters=dict(families.LONGROPE, partial_rotary_factor=0.5)),
        off=[], mixed=False, lengths=[14, 21],
        generation=[dict(lengths=[4, 5], n_new=9), dict(lengths=[15, 18], n_new=9)]),
}


def tensors_of(model):
    """What files would hold: a tied head once."""
    tied = model.config.tie_word_embeddings
    return {k: v for k, v in model.state_dict().items() if not (tied and k == "lm_head.weight")}


def record(name, case, out):
    """Recorded from a model saved plainly in fp32; then the files that hold it otherwise."""
    where = out / name
    make_plain = families.make_model
    kept = {}

    def make_model(_, rng):
        model = make_plain(case, rng)
        tensors = tensors_of(model)
        if "form" in case:
            kept["stored"], plain, kept["quantization"] = case["form"](tensors, case)
        else:
            kept["path"] = pathlib.Path(tempfile.mkdtemp()) / "model.gguf"
            plain = write_gguf(tensors, case, model.config, kept["path"])
        kept["plain"] = plain
        model = model.float()
        missing = model.load_state_dict(plain, strict=False).missing_keys
        assert set(missing) <= {"lm_head.weight"}, missing
        return model

    families.make_model = make_model
    try:
        families.record(name, case, out)
    finally:
        families.make_model = make_plain
    (where / "model.safetensors").unlink()
    if "form" in case:
        config = json.loads((where / "config.json").read_text())
        config["quantization_config"] = kept["quantization"]
        (where / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_file({k: v.contiguous() for k, v in kept["stored"].items()}, where / "model.safetensors",
                  metadata={"format": "pt"})
        (where / "model.safetensors").chmod(0o644)
        return
    shutil.copy(kept["path"], where / "model.gguf")
    if not case.get("unread"):
        check_reader(where / "model.gguf", kept["plain"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for case_name in sys.argv[1:] or CASES:
        record(case_name, families.DEFAULTS | CASES[case_name], families.OUT)
