#!/usr/bin/env python3
"""A Llama of random numbers in BF16: make_model.py DIR TOKENIZER_DIR HIDDEN INNER LAYERS."""
import json
import pathlib
import random
import shutil
import struct
import sys

out, tokenizer = map(pathlib.Path, sys.argv[1:3])
hidden, inner, layers = map(int, sys.argv[3:])
head_dim, vocab = 64, 593
heads = hidden // head_dim
kv = max(heads // 4, 1)
out.mkdir(parents=True)
for name in tokenizer.glob("tokenizer*"):
    shutil.copy(name, out)
(out / "config.json").write_text(json.dumps({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocab,
    "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
    "num_attention_heads": heads, "num_key_value_heads": kv, "head_dim": head_dim,
    "rms_norm_eps": 1e-5, "max_position_embeddings": 2048, "rope_theta": 500000.0,
    "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16"}))

shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
for i in range(layers):
    for name, shape in {"self_attn.q_proj": (heads * head_dim, hidden),
                        "self_attn.k_proj": (kv * head_dim, hidden),
                        "self_attn.v_proj": (kv * head_dim, hidden),
                        "self_attn.o_proj": (hidden, heads * head_dim),
                        "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
                        "mlp.down_proj": (hidden, inner), "input_layernorm": (hidden,),
                        "post_attention_layernorm": (hidden,)}.items():
        shapes[f"model.layers.{i}.{name}.weight"] = shape


def bf16(x):
    return struct.pack("<f", x)[2:]


# One block of numbers, from another place in every matrix, is random enough to be multiplied with.
rng = random.Random(1)
block = b"".join(bf16(rng.gauss(0, 0.02)) for _ in range(1 << 17))
at, header, sizes = 0, {}, {}
for name, shape in shapes.items():
    n = 1
    for size in shape:
        n *= size
    header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + 2 * n]}
    sizes[name] = 2 * n
    at += 2 * n
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
with open(out / "model.safetensors", "wb") as file:
    file.write(struct.pack("<Q", len(text)) + text)
    for name, n in sizes.items():
        if len(shapes[name]) == 1:
            file.write(bf16(1.0) * (n // 2))
            continue
        first = 2 * rng.randrange(1 << 16)
        while n > 0:
            piece = block[first:first + n]
            file.write(piece)
            n -= len(piece)
            first = 0
