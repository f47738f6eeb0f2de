/* spec: a Hugging Face config.json as a checked description of the network.
 *
 * The only place that knows architecture names and tensor names. An unknown model_type, or a
 * setting that would change the mathematics and is not supported, is refused by name, never
 * ignored. Both spellings of RoPE are read: rope_theta + rope_scaling {type | rope_type}, and
 * transformers v5's rope_parameters. bos/eos ids come from generation_config.json when present,
 * else config.json (key by key).
 *
 * A missing key takes the default of transformers' class; null does too, but for a window and soft
 * caps, where it says that there is none. Sizes that matter (layers, hidden, intermediate, heads,
 * vocab) must be given, except in gemma3, whose files leave them out. Sizes are bounded so that no
 * product of them, times layers and element bytes, overflows 63 bits.
 * The list of keys, used and refused, is in docs/formats.md.
 *
 * Sources: transformers models/<model_type>/configuration_*.py and modeling_*.py,
 * modeling_rope_utils.py. */
#ifndef TRIMTAB_SPEC_H
#define TRIMTAB_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trimtab/safetensors.h"
#include "trimtab/status.h"

/* --- One description of a block drives every family -------------------------------------------
 *
 *     x0    = embed_scale * E[ids]
 *     n     = norm(x)                                 NORMS_PRE, NORMS_BOTH; else n = x
 *     q,k,v = n W^T + b;  q, k normed (head_norm), then rotated (rope of the layer)
 *     a     = attention(q, k, v; attention_scale, attention_cap, window of the layer) Wo^T + bo
 *     mid   = x + residual_scale * norm'(a)           NORMS_POST, NORMS_BOTH; else norm' is nothing
 *     n2    = norm(mid)                               likewise
 *     m     = (act(n2 Wg^T + bg) * (n2 Wu^T + bu)) Wd^T + bd, or a mixture of such experts
 *     h     = mid + residual_scale * norm'(m)
 *     s     = logit_scale * (norm(h) head^T);  logits = cap(s),  cap(s) = c tanh(s / c)
 *
 * norm(x) = (norm_offset + w) * x / sqrt(mean(x^2) + norm_eps). */

typedef enum tt_norms {
    TT_NORMS_PRE,  /* in front of attention and MLP */
    TT_NORMS_POST, /* behind them */
    TT_NORMS_BOTH
} tt_norms;

/* Norm of queries and keys before the rotation. */
typedef enum tt_head_norm {
    TT_HEAD_NORM_NONE,
    TT_HEAD_NORM_EACH, /* of each head, weights [head_dim] */
    TT_HEAD_NORM_WHOLE /* of all heads as one row, weights [n_heads*head_dim], [n_kv_heads*head_dim]
                        */
} tt_head_norm;

/* Activation of the gate. */
typedef enum tt_gate { TT_GATE_SILU, TT_GATE_GELU_TANH } tt_gate;

typedef enum tt_rope_kind {
    TT_ROPE_DEFAULT,
    TT_ROPE_LINEAR,
    TT_ROPE_LLAMA3,
    TT_ROPE_YARN,
    TT_ROPE_LONGROPE
} tt_rope_kind;

enum { TT_MAX_LONGROPE = 128 };

typedef struct tt_rope {
    tt_rope_kind kind;
    double theta;
    double factor, low_freq_factor, high_freq_factor,
        original_max_positions;  /* LLAMA3; LINEAR: factor */
    double beta_fast, beta_slow; /* YARN, besides factor and original_max_positions */
    bool truncates;              /* YARN: the ramp begins and ends at whole dimensions */
    double attention_factor;     /* YARN, LONGROPE: cos and sin times this; 0: times 1 */
    /* LONGROPE [rotary_dim / 2]: divides the frequencies of sequences of at most, and of more than,
     * original_max_positions tokens. */
    float short_factor[TT_MAX_LONGROPE], long_factor[TT_MAX_LONGROPE];
} tt_rope;

/* What is particular to a layer: bits of tt_spec.layers. */
enum {
    TT_LAYER_SLIDING = 1, /* sees spec->window keys; rotates by rope_local when has_rope_local */
    TT_LAYER_NO_ROPE = 2,
    TT_LAYER_EXPERTS = 4, /* the MLP is a mixture of experts */
};

enum { TT_MAX_EOS = 8, TT_MAX_LAYERS = 1024, TT_MAX_EXPERTS = 1024 };

/* Matrices of the files that are stored as F8_E4M3 come with factors (see gemm.h): one for each
 * block, or, when block_rows is 0, one for each row or the whole tensor, as their shape says. */
typedef struct tt_quantisation {
    bool is_fp8;
    int block_rows, block_cols;
} tt_quantisation;

/* Fields that say nothing when 0 are told apart from those that do: see tt_spec_complete. */
typedef struct tt_spec {
    char model_type[32];   /* "llama" */
    char architecture[64]; /* "LlamaForCausalLM" */
    int n_layers, hidden, intermediate, vocab, max_positions;
    int n_heads, n_kv_heads, head_dim; /* n_heads * head_dim need not equal hidden */
    int rotary_dim;                    /* leading dimensions of a head that are rotated; even */
    tt_norms norms;
    double norm_eps;
    float norm_offset; /* 1: weights are stored as their difference from 1 */
    tt_head_norm head_norm;
    tt_gate gate;
    double attention_scale; /* of q k^T */
    double attention_cap;   /* soft cap of the scores; 0: none */
    double logit_cap;       /* soft cap of the logits; 0: none */
    double embed_scale, residual_scale, logit_scale;
    int window; /* token i of a sliding layer sees tokens i - window + 1 .. i */
    tt_rope rope, rope_local;
    bool has_rope_local;
    uint8_t layers[TT_MAX_LAYERS];      /* [n_layers] */
    int n_experts, n_experts_per_token; /* 0: no layer has experts */
    int expert_intermediate;
    bool sums_experts_to_one; /* the chosen experts' weights are divided by their sum */
    bool tied_head;           /* lm_head shares model.embed_tokens.weight */
    bool qkv_bias, o_bias;
    bool mlp_bias;      /* gate, up, down have biases */
    bool fused_qkv;     /* q, k, v are rows of one tensor in the files, in this order */
    bool fused_gate_up; /* likewise gate, up */
    int bos_id;         /* -1: none */
    int eos_ids[TT_MAX_EOS], n_eos;
    tt_quantisation quantisation;
    tt_dtype dtype;    /* that weights made from nothing are stored in; files say their own */
    double init_range; /* standard deviation of such matrices */
} tt_spec;

typedef enum tt_role {
    TT_ROLE_EMBED,     /* [vocab x hidden] */
    TT_ROLE_ATTN_NORM, /* [hidden] in front of attention */
    TT_ROLE_Q,         /* [n_heads*head_dim x hidden] */
    TT_ROLE_K,         /* [n_kv_heads*head_dim x hidden] */
    TT_ROLE_V,         /* likewise */
    TT_ROLE_O,         /* [hidden x n_heads*head_dim] */
    TT_ROLE_Q_BIAS,
    TT_ROLE_K_BIAS,
    TT_ROLE_V_BIAS,
    TT_ROLE_O_BIAS,
    TT_ROLE_Q_NORM,         /* [head_dim] or [n_heads*head_dim] */
    TT_ROLE_K_NORM,         /* [head_dim] or [n_kv_heads*head_dim] */
    TT_ROLE_ATTN_POST_NORM, /* [hidden] behind attention */
    TT_ROLE_MLP_NORM,       /* [hidden] in front of the MLP */
    TT_ROLE_GATE,           /* [intermediate x hidden] */
    TT_ROLE_UP,             /* [intermediate x hidden] */
    TT_ROLE_DOWN,           /* [hidden x intermediate] */
    TT_ROLE_GATE_BIAS,
    TT_ROLE_UP_BIAS,
    TT_ROLE_DOWN_BIAS,
    TT_ROLE_ROUTER, /* [n_experts x hidden] of a layer with experts, which has no dense MLP */
    TT_ROLE_MLP_POST_NORM, /* [hidden] behind the MLP */
    TT_ROLE_FINAL_NORM,    /* [hidden]  model.norm */
    TT_ROLE_HEAD,          /* [vocab x hidden]  lm_head, or the embedding when tied */
    TT_N_ROLES
} tt_role;

enum { TT_TENSOR_NAME_BYTES = 128 };

/* Reads model_dir/config.json (and generation_config.json). Not collective.
 * Errors: ERR_MISSING, ERR_FORMAT ("path: key: found, expected"), ERR_IO. */
tt_status tt_spec_read(const char *model_dir, tt_spec *out, tt_error *err) TT_MUST_CHECK;

/* Sets every field that cannot be 0 and is: attention_scale to 1 / sqrt(head_dim), rotary_dim to
 * head_dim, the other scales to 1. */
void tt_spec_complete(tt_spec *spec);

/* Does this layer of the model have that tensor? Roles EMBED, FINAL_NORM and HEAD are not of a
 * layer: they ignore it. A tied head is no tensor. */
bool tt_spec_has(const tt_spec *spec, tt_role role, int layer);

/* Can a model of this type have biases of that role: has its config.json a setting for them, or are
 * they there anyway? */
bool tt_spec_may_have(const tt_spec *spec, tt_role role);

/* Is it a tensor of every layer, rather than one of the whole model? */
bool tt_spec_is_per_layer(tt_role role);

/* The tensor's name in the model's files and its shape; returns the number of dimensions (1 or 2).
 * Where the files fuse it with others, the name is that of the fused tensor, and the shape its own:
 * tt_spec_rows says where it lies. */
int tt_spec_tensor(const tt_spec *spec, tt_role role, int layer, char name[TT_TENSOR_NAME_BYTES],
                   int64_t shape[2]);

/* The role's first row in the tensor of the files, and all rows of that. */
typedef struct tt_spec_range {
    int64_t first_row, n_rows;
} tt_spec_range;
tt_spec_range tt_spec_rows(const tt_spec *spec, tt_role role);

/* Tensors of an expert: role GATE, UP or DOWN. [expert_intermediate x hidden] and transposed. */
void tt_spec_expert_tensor(const tt_spec *spec, tt_role role, int layer, int expert,
                           char name[TT_TENSOR_NAME_BYTES], int64_t shape[2]);

/* The i-th spelling of a name of the two functions above that files of the family use; 0 is the
 * name itself. false: there are no more. */
bool tt_spec_spelling(const tt_spec *spec, int i, const char *name,
                      char spelling[TT_TENSOR_NAME_BYTES]);

/* The path of a module in the model's class, as transformers 5 builds it and PEFT names it, where
 * it is not what the functions above call it: path begins like their names ("model.layers.0...").
 * false: it is the same. */
bool tt_spec_module_name(const tt_spec *spec, const char *path, char out[TT_TENSOR_NAME_BYTES]);

/* Elements of a layer's tensors (of the largest layer, should they differ), and of the whole model
 * (a tied head counted once). */
int64_t tt_spec_layer_params(const tt_spec *spec);
int64_t tt_spec_params(const tt_spec *spec);

/* Is the layer's MLP a mixture of experts? */
bool tt_spec_has_experts(const tt_spec *spec, int layer);

/* The roles that every expert has a tensor of (tt_spec_expert_tensor): gate, up, down. */
enum { TT_N_EXPERT_ROLES = 3 };
extern const tt_role tt_spec_expert_roles[TT_N_EXPERT_ROLES];
bool tt_spec_is_of_experts(const tt_spec *spec, tt_role role, int layer);

/* Elements of a layer's tensors that one token meets: of experts, those that it takes. */
int64_t tt_spec_active_params(const tt_spec *spec, int layer);

/* Width that a token has inside the MLP of the layer: of all experts that it takes together. */
int tt_spec_mlp_width(const tt_spec *spec, int layer);

/* Keys that a token of the layer sees, itself included; 0: all. */
int tt_spec_window(const tt_spec *spec, int layer);

/* The rotation of a layer; NULL: none. */
const tt_rope *tt_spec_rope(const tt_spec *spec, int layer);

/* inv_freq[rotary_dim / 2] of a rotary embedding, scaled as its kind says, in double. is_long: of
 * sequences longer than rope->original_max_positions (LONGROPE only). */
void tt_spec_rope_frequencies(const tt_spec *spec, const tt_rope *rope, bool is_long,
                              double *inv_freq);

#endif
