"""Records rotary frequencies as transformers computes them, for tests/unit/test_spec_rope.c.

Run by hand:  python tests/golden/record_rope.py > tests/golden/rope_frequencies.h
Pinned: torch 2.13.0, transformers 5.23.0 (any CPU build).
"""

import torch
import transformers
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
YARN = {"rope_type": "yarn"}
# name, head_dim, theta, parameters. Of yarn: as Qwen publishes it; a ramp that begins and ends
# between dimensions; one of part of a head with settings of its own; ramps cut off at the first
# dimension, without length, and that never begin.
CASES = [
    ("plain", 128, 10000.0, {"rope_type": "default"}),
    ("linear", 64, 10000.0, {"rope_type": "linear", "factor": 8.0}),
    ("llama31", 128, 500000.0, {**LLAMA3, "factor": 8.0}),
    ("llama32", 64, 500000.0, {**LLAMA3, "factor": 32.0}),
    ("yarn", 128, 1e6, {**YARN, "factor": 4.0, "original_max_position_embeddings": 32768}),
    ("yarn_between", 64, 150000.0, {**YARN, "factor": 32.0, "truncate": False,
                                  "original_max_position_embeddings": 4096}),
    ("yarn_partial", 80, 10000.0, {**YARN, "factor": 8.0, "beta_fast": 16.0, "beta_slow": 2.0,
                                   "partial_rotary_factor": 0.4, "attention_factor": 1.25,
                                   "original_max_position_embeddings": 2048}),
    ("yarn_low", 16, 10000.0, {**YARN, "factor": 2.0, "original_max_position_embeddings": 64}),
    ("yarn_step", 16, 10000.0, {**YARN, "factor": 2.0, "original_max_position_embeddings": 6}),
    ("yarn_none", 16, 10000.0, {**YARN, "factor": 2.0, "original_max_position_embeddings": 1}),
]
LONG_DIM = 96
LONGROPE = {"rope_type": "longrope", "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 4096,
            "short_factor": [1.0 + i / 64 for i in range(36)],
            "long_factor": [1.0 + 1.5 * i for i in range(36)]}


def config_of(head_dim, theta, rope):
    return LlamaConfig(hidden_size=4 * head_dim, num_attention_heads=4, head_dim=head_dim,
                       max_position_embeddings=131072, rope_parameters={**rope, "rope_theta": theta})


def write(name, values, kind="double"):
    print(f"static const {kind} rope_{name}[{len(values)}] = {{")
    for i in range(0, len(values), 4):
        print("    " + ", ".join(f"{v:.9g}" for v in values[i:i + 4]) + ",")
    print("};\n")


print(f"""/* Written by tests/golden/record_rope.py with torch {torch.__version__.split('+')[0]} and
 * transformers {transformers.__version__}: inv_freq of LlamaRotaryEmbedding, computed there in fp32. */
#ifndef TRIMTAB_TESTS_ROPE_FREQUENCIES_H
#define TRIMTAB_TESTS_ROPE_FREQUENCIES_H
""")
for case, size, base, parameters in CASES:
    write(case, LlamaRotaryEmbedding(config_of(size, base, parameters)).inv_freq.tolist())
config = config_of(LONG_DIM, 10000.0, LONGROPE)
for case, length in ("longrope_short", 4096), ("longrope_long", 4097):
    write(case, ROPE_INIT_FUNCTIONS["longrope"](config, seq_len=length)[0].tolist())
print("#endif")
