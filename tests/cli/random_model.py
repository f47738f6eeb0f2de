#!/usr/bin/env python3
"""A small model of random numbers in a directory: random_model.py FAMILY DIR TOKENIZER_DIR.

phi3: matrices fused. gemma3: a model of text and images, whose text lies under a prefix."""
import array
import json
import os
import random
import shutil
import struct
import sys

family, out, tokenizer = sys.argv[1:]
rng = random.Random(family)
LAYERS, HIDDEN, INNER, HEADS, KV, DIM, VOCAB = 3, 64, 96, 4, 2, 16, 593
sizes = {"num_hidden_layers": LAYERS, "hidden_size": HIDDEN, "intermediate_size": INNER,
         "num_attention_heads": HEADS, "num_key_value_heads": KV, "vocab_size": VOCAB,
         "max_position_embeddings": 512, "bos_token_id": 0, "eos_token_id": 1}
matrices = {"self_attn.o_proj": (HIDDEN, HEADS * DIM), "mlp.down_proj": (HIDDEN, INNER)}
norms = {"input_layernorm": HIDDEN, "post_attention_layernorm": HIDDEN}
if family == "phi3":
    config = {"model_type": family, "architectures": ["Phi3ForCausalLM"], **sizes}
    matrices["self_attn.qkv_proj"] = ((HEADS + 2 * KV) * DIM, HIDDEN)
    matrices["mlp.gate_up_proj"] = (2 * INNER, HIDDEN)
    prefix, first_norm = "", 1.0
else:
    config = {"model_type": family, "architectures": ["Gemma3ForConditionalGeneration"],
              "text_config": {"model_type": "gemma3_text", **sizes, "head_dim": DIM,
                              "sliding_window": 5, "sliding_window_pattern": 2,
                              "query_pre_attn_scalar": DIM},
              "vision_config": {"model_type": "siglip_vision_model"}}
    for name, rows in (("q", HEADS), ("k", KV), ("v", KV)):
        matrices[f"self_attn.{name}_proj"] = (rows * DIM, HIDDEN)
    matrices["mlp.gate_proj"] = matrices["mlp.up_proj"] = (INNER, HIDDEN)
    norms.update({"pre_feedforward_layernorm": HIDDEN, "post_feedforward_layernorm": HIDDEN,
                  "self_attn.q_norm": DIM, "self_attn.k_norm": DIM})
    prefix, first_norm = "language_model.", 0.0

tensors = {}


def add(name, *shape, mean=0.0):
    n = 1
    for size in shape:
        n *= size
    tensors[name] = (shape, array.array("f", (rng.gauss(mean, 0.15) for _ in range(n))))


add(prefix + "model.embed_tokens.weight", VOCAB, HIDDEN)
add(prefix + "model.norm.weight", HIDDEN, mean=first_norm)
for i in range(LAYERS):
    for name, shape in matrices.items():
        add(f"{prefix}model.layers.{i}.{name}.weight", *shape)
    for name, size in norms.items():
        add(f"{prefix}model.layers.{i}.{name}.weight", size, mean=first_norm)
if family == "phi3":
    add("lm_head.weight", VOCAB, HIDDEN)
else:
    add("vision_tower.vision_model.post_layernorm.weight", 8)

os.makedirs(out)
header, at = {}, 0
for name, (shape, values) in tensors.items():
    n = 4 * len(values)
    header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + n]}
    at += n
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
with open(f"{out}/model.safetensors", "wb") as file:
    file.write(struct.pack("<Q", len(text)) + text)
    for _, values in tensors.values():
        file.write(values.tobytes())
with open(f"{out}/config.json", "w") as file:
    json.dump(config, file)
for name in ("tokenizer.json", "tokenizer_config.json"):
    shutil.copy(f"{tokenizer}/{name}", out)
