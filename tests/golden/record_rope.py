"""Records rotary frequencies as transformers computes them, for tests/unit/test_spec.c.

Run by hand:  python tests/golden/record_rope.py > tests/golden/rope_frequencies.h
Pinned: torch 2.13.0, transformers 5.23.0 (any CPU build).
"""

import torch
import transformers
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
CASES = [
    ("plain", 128, 10000.0, {"rope_type": "default"}),
    ("linear", 64, 10000.0, {"rope_type": "linear", "factor": 8.0}),
    ("llama31", 128, 500000.0, {**LLAMA3, "factor": 8.0}),
    ("llama32", 64, 500000.0, {**LLAMA3, "factor": 32.0}),
]

print(f"""/* Written by tests/golden/record_rope.py with torch {torch.__version__.split('+')[0]} and
 * transformers {transformers.__version__}: inv_freq of LlamaRotaryEmbedding, computed there in fp32. */
#ifndef TRIMTAB_TESTS_ROPE_FREQUENCIES_H
#define TRIMTAB_TESTS_ROPE_FREQUENCIES_H
""")
for name, head_dim, theta, rope in CASES:
    config = LlamaConfig(hidden_size=4 * head_dim, num_attention_heads=4, head_dim=head_dim,
                         max_position_embeddings=131072,
                         rope_parameters={**rope, "rope_theta": theta})
    values = LlamaRotaryEmbedding(config).inv_freq.tolist()
    print(f"static const double rope_{name}[{len(values)}] = {{")
    for i in range(0, len(values), 4):
        print("    " + ", ".join(f"{v:.9g}" for v in values[i:i + 4]) + ",")
    print("};\n")
print("#endif")
