#!/usr/bin/env python3
"""A Llama of made-up bf16 numbers, large enough to be worth timing: random_llama.py DIR
TOKENIZER_DIR LAYERS HIDDEN VOCAB. One block of normal numbers is repeated: only their size matters."""
import json
import os
import random
import shutil
import struct
import sys

out, tokenizer = sys.argv[1:3]
layers, hidden, vocab = map(int, sys.argv[3:])
inner, head = 4 * hidden, 64
heads, kv = hidden // head, max(hidden // head // 4, 1)
rng = random.Random(1)
block = b"".join(struct.pack("<f", rng.gauss(0, 0.02))[2:] for _ in range(1 << 18))
shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
for i in range(layers):
    at = f"model.layers.{i}."
    for name, shape in {"self_attn.q_proj": (hidden, hidden), "self_attn.o_proj": (hidden, hidden),
                        "self_attn.k_proj": (kv * head, hidden),
                        "self_attn.v_proj": (kv * head, hidden),
                        "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
                        "mlp.down_proj": (hidden, inner), "input_layernorm": (hidden,),
                        "post_attention_layernorm": (hidden,)}.items():
        shapes[f"{at}{name}.weight"] = shape

os.makedirs(out)
header, at = {}, 0
for name, shape in shapes.items():
    n = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
    header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + n]}
    at += n
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
with open(f"{out}/model.safetensors", "wb") as file:
    file.write(struct.pack("<Q", len(text)) + text)
    for name, shape in shapes.items():
        n = header[name]["data_offsets"][1] - header[name]["data_offsets"][0]
        if len(shape) == 1:
            file.write(b"\x80\x3f" * (n // 2))  # ones
            continue
        for _ in range(n // len(block)):
            file.write(block)
        file.write(block[:n % len(block)])
with open(f"{out}/config.json", "w") as file:
    json.dump({"model_type": "llama", "architectures": ["LlamaForCausalLM"],
               "num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": inner,
               "num_attention_heads": heads, "num_key_value_heads": kv, "head_dim": head,
               "vocab_size": vocab, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
               "rope_theta": 10000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
               "bos_token_id": 0, "eos_token_id": 1}, file)
for name in ("tokenizer.json", "tokenizer_config.json"):
    shutil.copy(f"{tokenizer}/{name}", out)
