/* What a model of a spec is called and how it lies in a GGUF file; the pure half of gguf, and the
 * comparison of the two. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trimtab/gguf.h"

/* interleaved: the converter turned q and k for a rotation of neighbours. */
static const struct family {
    const char *model_type, *architecture;
    bool interleaved;
} families[] = {{"llama", "llama", true},     {"mistral", "llama", true},
                {"mixtral", "llama", true},   {"granite", "granite", true},
                {"smollm3", "smollm3", true}, {"qwen2", "qwen2", false},
                {"qwen3", "qwen3", false},    {"qwen3_moe", "qwen3moe", false},
                {"gemma", "gemma", false},    {"gemma2", "gemma2", false},
                {"gemma3", "gemma3", false},  {"gemma3_text", "gemma3", false},
                {"phi3", "phi3", false},      {"olmo2", "olmo2", false}};

/* Names of a layer's stand behind "blk.<i>.". */
static const char *const names[TT_N_ROLES] = {
    [TT_ROLE_EMBED] = "token_embd.weight",
    [TT_ROLE_ATTN_NORM] = "attn_norm.weight",
    [TT_ROLE_Q] = "attn_q.weight",
    [TT_ROLE_K] = "attn_k.weight",
    [TT_ROLE_V] = "attn_v.weight",
    [TT_ROLE_O] = "attn_output.weight",
    [TT_ROLE_Q_BIAS] = "attn_q.bias",
    [TT_ROLE_K_BIAS] = "attn_k.bias",
    [TT_ROLE_V_BIAS] = "attn_v.bias",
    [TT_ROLE_O_BIAS] = "attn_output.bias",
    [TT_ROLE_Q_NORM] = "attn_q_norm.weight",
    [TT_ROLE_K_NORM] = "attn_k_norm.weight",
    [TT_ROLE_ATTN_POST_NORM] = "post_attention_norm.weight",
    [TT_ROLE_MLP_NORM] = "ffn_norm.weight",
    [TT_ROLE_GATE] = "ffn_gate.weight",
    [TT_ROLE_UP] = "ffn_up.weight",
    [TT_ROLE_DOWN] = "ffn_down.weight",
    [TT_ROLE_GATE_BIAS] = "ffn_gate.bias",
    [TT_ROLE_UP_BIAS] = "ffn_up.bias",
    [TT_ROLE_DOWN_BIAS] = "ffn_down.bias",
    [TT_ROLE_ROUTER] = "ffn_gate_inp.weight",
    [TT_ROLE_MLP_POST_NORM] = "post_ffw_norm.weight",
    [TT_ROLE_FINAL_NORM] = "output_norm.weight",
    [TT_ROLE_HEAD] = "output.weight",
};

static const struct family *family_of(const tt_spec *spec) {
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++)
        if (strcmp(families[i].model_type, spec->model_type) == 0) return &families[i];
    return NULL;
}

bool tt_gguf_interleaves(const tt_spec *spec) {
    const struct family *family = family_of(spec);
    return family && family->interleaved;
}

void tt_gguf_tensor_name(const tt_spec *spec, tt_role role, int layer,
                         char name[TT_TENSOR_NAME_BYTES]) {
    bool qkv = role == TT_ROLE_Q || role == TT_ROLE_K || role == TT_ROLE_V;
    if (role == TT_ROLE_HEAD && spec->tied_head) role = TT_ROLE_EMBED;
    if (role == TT_ROLE_GATE && spec->fused_gate_up) role = TT_ROLE_UP;
    const char *own = qkv && spec->fused_qkv ? "attn_qkv.weight" : names[role];
    if (tt_spec_is_per_layer(role))
        snprintf(name, TT_TENSOR_NAME_BYTES, "blk.%d.%s", layer, own);
    else
        snprintf(name, TT_TENSOR_NAME_BYTES, "%s", own);
}

void tt_gguf_experts_name(tt_role role, int layer, char name[TT_TENSOR_NAME_BYTES]) {
    const char *which = role == TT_ROLE_GATE ? "gate" : role == TT_ROLE_UP ? "up" : "down";
    snprintf(name, TT_TENSOR_NAME_BYTES, "blk.%d.ffn_%s_exps.weight", layer, which);
}

/* --- The file's word against that of config.json ---------------------------------------------- */

static bool is_near(double a, double b) {
    return fabs(a - b) <= 1e-5 * fmax(fabs(a), fabs(b));
}

static tt_status check_number(const tt_gguf *file, const char *architecture, const char *key,
                              double expected, const char *of, tt_error *err) {
    char full[128];
    snprintf(full, sizeof full, "%s.%s", architecture, key);
    const tt_gguf_value *value = tt_gguf_find_value(file, full);
    if (!value || (value->kind == TT_GGUF_NUMBER && is_near(value->number, expected))) return TT_OK;
    if (value->kind != TT_GGUF_NUMBER)
        return tt_fail(err, TT_ERR_FORMAT, "%s: key '%s': expected one number (%g, of config.json)",
                       tt_gguf_path(file), full, expected);
    return tt_fail(err, TT_ERR_FORMAT,
                   "%s: key '%s': found %.9g, expected %.9g (%s of config.json)",
                   tt_gguf_path(file), full, value->number, expected, of);
}

static tt_status check_numbers(const tt_gguf *file, const char *architecture, const tt_spec *spec,
                               tt_error *err) {
    const struct {
        const char *key;
        double expected;
        const char *of;
        bool skip;
    } rows[] = {
        {"block_count", spec->n_layers, "num_hidden_layers"},
        {"embedding_length", spec->hidden, "hidden_size"},
        {"feed_forward_length", spec->intermediate, "intermediate_size", spec->n_experts > 0},
        {"attention.head_count", spec->n_heads, "num_attention_heads"},
        {"attention.head_count_kv", spec->n_kv_heads, "num_key_value_heads"},
        {"attention.key_length", spec->head_dim, "head_dim"},
        {"attention.value_length", spec->head_dim, "head_dim"},
        {"attention.layer_norm_rms_epsilon", spec->norm_eps, "rms_norm_eps"},
        {"attention.sliding_window", spec->window, "sliding_window"},
        {"attention.scale", spec->attention_scale, "attention_multiplier"},
        {"rope.freq_base", spec->rope.theta, "rope_theta"},
        {"rope.dimension_count", spec->rotary_dim, "the rotated part of head_dim"},
        {"rope.scaling.factor", spec->rope.factor, "RoPE's factor",
         spec->rope.kind != TT_ROPE_LINEAR && spec->rope.kind != TT_ROPE_YARN},
        {"rope.scaling.attn_factor", spec->rope.attention_factor, "RoPE's attention_factor",
         spec->rope.kind != TT_ROPE_LONGROPE || spec->rope.attention_factor == 0},
        {"attn_logit_softcapping", spec->attention_cap, "attn_logit_softcapping"},
        {"final_logit_softcapping", spec->logit_cap, "final_logit_softcapping"},
        {"embedding_scale", spec->embed_scale, "embedding_multiplier"},
        {"residual_scale", spec->residual_scale, "residual_multiplier"},
        {"logit_scale", 1 / spec->logit_scale, "logits_scaling"},
        {"expert_count", spec->n_experts, "the number of experts"},
        {"expert_used_count", spec->n_experts_per_token, "num_experts_per_tok"},
        {"expert_feed_forward_length", spec->expert_intermediate, "moe_intermediate_size"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (!rows[i].skip)
            TT_TRY(
                check_number(file, architecture, rows[i].key, rows[i].expected, rows[i].of, err));
    return TT_OK;
}

/* A scaling that the file names must be the config's. (Llama 3's is in rope_freqs.weight instead.)
 */
static tt_status check_scaling(const tt_gguf *file, const char *architecture, const tt_spec *spec,
                               tt_error *err) {
    static const char *const kinds[] = {[TT_ROPE_DEFAULT] = "none",
                                        [TT_ROPE_LINEAR] = "linear",
                                        [TT_ROPE_LLAMA3] = "none",
                                        [TT_ROPE_YARN] = "yarn",
                                        [TT_ROPE_LONGROPE] = "longrope"};
    char key[128];
    snprintf(key, sizeof key, "%s.rope.scaling.type", architecture);
    const tt_gguf_value *value = tt_gguf_find_value(file, key);
    const char *expected = kinds[spec->rope.kind];
    if (!value || (value->text && strcmp(value->text, expected) == 0)) return TT_OK;
    return tt_fail(err, TT_ERR_FORMAT, "%s: key '%s': found %.40s, expected %s (of config.json)",
                   tt_gguf_path(file), key, value->text ? value->text : "no text", expected);
}

/* One divisor of the frequencies for each pair: [n]. Not there: nothing is said. */
static tt_status check_divisors(const tt_gguf *file, const char *name, int n,
                                const double *expected, tt_error *err) {
    const tt_tensor *tensor = tt_gguf_find(file, name);
    if (!tensor) return TT_OK;
    if (tensor->dtype != TT_DTYPE_F32 || tensor->n_dims != 1 || tensor->shape[0] != n)
        return tt_fail(err, TT_ERR_FORMAT, "%s: tensor '%s': expected F32 [%d]", tensor->file, name,
                       n);
    for (int i = 0; i < n; i++) {
        float found;
        memcpy(&found, (const char *)tensor->data + (size_t)i * sizeof found, sizeof found);
        if (!(fabs((double)found - expected[i]) <= 1e-4 * fabs(expected[i])))
            return tt_fail(err, TT_ERR_FORMAT,
                           "%s: tensor '%s': element %d: found %g, expected %g as config.json "
                           "scales RoPE",
                           tensor->file, name, i, (double)found, expected[i]);
    }
    return TT_OK;
}

static tt_status check_rope(const tt_gguf *file, const tt_spec *spec, tt_error *err) {
    int n = spec->rotary_dim / 2;
    double *expected = calloc((size_t)n, sizeof *expected);
    if (!expected) return tt_fail(err, TT_ERR_MEMORY, "no memory for %d frequencies", n);
    tt_rope plain = {.theta = spec->rope.theta};
    double *unscaled = calloc((size_t)n, sizeof *unscaled);
    tt_status status = TT_OK;
    if (!unscaled) {
        status = tt_fail(err, TT_ERR_MEMORY, "no memory for %d frequencies", n);
    } else if (spec->rope.kind == TT_ROPE_LONGROPE) {
        for (int i = 0; i < n; i++) expected[i] = (double)spec->rope.short_factor[i];
        status = check_divisors(file, "rope_factors_short.weight", n, expected, err);
        for (int i = 0; i < n; i++) expected[i] = (double)spec->rope.long_factor[i];
        if (!status) status = check_divisors(file, "rope_factors_long.weight", n, expected, err);
    } else {
        tt_spec_rope_frequencies(spec, &plain, false, unscaled);
        tt_spec_rope_frequencies(spec, &spec->rope, false, expected);
        bool in_file = spec->rope.kind == TT_ROPE_LLAMA3;
        for (int i = 0; i < n; i++) expected[i] = in_file ? unscaled[i] / expected[i] : 1;
        status = check_divisors(file, "rope_freqs.weight", n, expected, err);
    }
    free(unscaled);
    free(expected);
    return status;
}

bool tt_gguf_is_rope(const tt_spec *spec, const char *name) {
    if (spec->rope.kind == TT_ROPE_LONGROPE)
        return strcmp(name, "rope_factors_short.weight") == 0 ||
               strcmp(name, "rope_factors_long.weight") == 0;
    return strcmp(name, "rope_freqs.weight") == 0;
}

tt_status tt_gguf_check(const tt_gguf *file, const tt_spec *spec, tt_error *err) {
    const struct family *family = family_of(spec);
    if (!family)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: model_type \"%s\" of config.json is not supported in GGUF files",
                       tt_gguf_path(file), spec->model_type);
    const tt_gguf_value *value = tt_gguf_find_value(file, "general.architecture");
    if (!value || !value->text || strcmp(value->text, family->architecture) != 0)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: key 'general.architecture': found %.40s, expected %s for model_type "
                       "\"%s\" of config.json",
                       tt_gguf_path(file), value && value->text ? value->text : "none",
                       family->architecture, spec->model_type);
    TT_TRY(check_numbers(file, family->architecture, spec, err));
    TT_TRY(check_scaling(file, family->architecture, spec, err));
    return check_rope(file, spec, err);
}
