#!/usr/bin/env python3
"""The shipped model (Llama, bf16, tied) in another storage: stored_model.py MODEL OUT KIND
  gguf-bf16   a GGUF file of the same numbers, rows of q and k turned as llama.cpp has them
  gguf-q8     the same with matrices as Q8_0
  fp8         safetensors with matrices of the layers as FP8 in blocks of 128 x 128"""
import array
import bisect
import json
import os
import shutil
import struct
import sys

model, out, kind = sys.argv[1:]
config = json.load(open(f"{model}/config.json"))
raw = open(f"{model}/model.safetensors", "rb").read()
start = 8 + struct.unpack("<Q", raw[:8])[0]
header = {k: e for k, e in json.loads(raw[8:start]).items() if k != "__metadata__"}


def values(entry):
    """fp32 numbers of a bf16 or fp32 tensor."""
    begin, end = entry["data_offsets"]
    data = raw[start + begin:start + end]
    if entry["dtype"] == "F32":
        return array.array("f", data)
    wide = array.array("I", (h << 16 for h in array.array("H", data)))
    return array.array("f", wide.tobytes())


tensors = {k: (e["shape"], values(e)) for k, e in header.items()}


def bf16(x):
    return array.array("H", (b >> 16 for b in array.array("I", x.tobytes()))).tobytes()


def q8_0(x):
    parts = []
    for i in range(0, len(x), 32):
        block = x[i:i + 32]
        factor = struct.unpack("<e", struct.pack("<e", max(map(abs, block)) / 127))[0]
        codes = [max(-127, min(127, round(v / factor))) if factor else 0 for v in block]
        parts.append(struct.pack("<e32b", factor, *codes))
    return b"".join(parts)


def turned(x, cols, heads):
    """Rows of each head from two halves to pairs."""
    rows = [x[i:i + cols] for i in range(0, len(x), cols)]
    width = len(rows) // heads
    order = [h * width + s * (width // 2) + i for h in range(heads) for i in range(width // 2) for s in (0, 1)]
    return array.array("f", b"".join(rows[i].tobytes() for i in order))


NAMES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
         "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down"}


def gguf_name(name):
    ends = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if name in ends:
        return ends[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def write_gguf(path, in_blocks):
    info, data = [], b""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, (shape, x) in tensors.items():
        if name.split(".")[-2] in heads:
            x = turned(x, shape[1], heads[name.split(".")[-2]])
        code, packed = (0, x.tobytes()) if len(shape) == 1 else (8, q8_0(x)) if in_blocks else (30, bf16(x))
        data += bytes(-len(data) % 32)
        info.append(string(gguf_name(name)) + struct.pack(f"<I{len(shape)}QIQ", len(shape),
                                                           *reversed(shape), code, len(data)))
        data += packed
    facts = [("block_count", 4, "I", config["num_hidden_layers"]), ("embedding_length", 4, "I", config["hidden_size"]),
             ("attention.head_count", 4, "I", config["num_attention_heads"]),
             ("attention.layer_norm_rms_epsilon", 6, "f", config["rms_norm_eps"]),
             ("rope.freq_base", 6, "f", config["rope_theta"])]
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(info), len(facts) + 1)
    head += string("general.architecture") + struct.pack("<I", 8) + string("llama")
    for key, code, form, value in facts:
        head += string("llama." + key) + struct.pack("<I" + form, code, value)
    head += b"".join(info)
    open(path, "wb").write(head + bytes(-len(head) % 32) + data)


def e4m3(code):
    exponent, mantissa = code >> 3, code & 7
    return mantissa / 512 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10)


GRID = [e4m3(c) for c in range(127)]
MIDDLES = [(a + b) / 2 for a, b in zip(GRID, GRID[1:])]


def fp8(shape, x):
    """Codes and factors."""
    rows, cols = shape
    codes, factors = bytearray(rows * cols), []
    for r in range(0, rows, 128):
        for c in range(0, cols, 128):
            at = [i * cols + k for i in range(r, min(r + 128, rows)) for k in range(c, min(c + 128, cols))]
            factor = array.array("f", [max(abs(x[i]) for i in at) / 448])[0]
            factors.append(factor)
            for i in at:
                codes[i] = bisect.bisect(MIDDLES, abs(x[i]) / factor) | (128 if x[i] < 0 else 0)
    return bytes(codes), [-(-rows // 128), -(-cols // 128)], struct.pack(f"<{len(factors)}f", *factors)


def write_fp8(path):
    parts = {}
    for name, (shape, x) in tensors.items():
        if "proj" in name:
            codes, n, factors = fp8(shape, x)
            parts[name], parts[name + "_scale_inv"] = ("F8_E4M3", shape, codes), ("F32", n, factors)
        else:
            parts[name] = ("F32", shape, x.tobytes()) if len(shape) == 1 else ("BF16", shape, bf16(x))
    entries, data = {}, b""
    for name, (dtype, shape, packed) in sorted(parts.items(), key=lambda p: p[1][0] == "F8_E4M3"):
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(packed)]}
        data += packed
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    open(path, "wb").write(struct.pack("<Q", len(text)) + text + data)
    config["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                                     "weight_block_size": [128, 128]}


os.makedirs(out)
shutil.copy(f"{model}/tokenizer.json", out)
if kind == "fp8":
    write_fp8(f"{out}/model.safetensors")
else:
    write_gguf(f"{out}/model.gguf", kind == "gguf-q8")
json.dump(config, open(f"{out}/config.json", "w"))
