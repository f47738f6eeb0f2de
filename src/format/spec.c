#include "trimtab/spec.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "json_private.h"
#include "spec_private.h"
#include "spec_quant.h"
#include "trimtab/file.h"

enum { MAX_CONFIG_BYTES = 1 << 20 };

/* --- Sizes ------------------------------------------------------------------------------------ */

static int or_required(int fallback) {
    return fallback ? fallback : TT_SPEC_REQUIRED;
}

static tt_status read_head_counts(const tt_spec_keys *config, const tt_spec_family *family,
                                  tt_spec *spec, tt_error *err) {
    TT_TRY(tt_spec_read_count(config, "num_attention_heads", TT_SPEC_MAX_HEADS,
                              or_required(family->n_heads), &spec->n_heads, err));
    /* An explicit null is as many as heads in every class. */
    int n_kv_heads = spec->n_heads;
    if (family->n_kv_heads && !json_object_get(config->object, "num_key_value_heads"))
        n_kv_heads = family->n_kv_heads;
    TT_TRY(tt_spec_read_count(config, "num_key_value_heads", TT_SPEC_MAX_HEADS, n_kv_heads,
                              &spec->n_kv_heads, err));
    int head_dim = family->head_dim ? family->head_dim : spec->hidden / spec->n_heads;
    TT_TRY(tt_spec_read_count(config, "head_dim", TT_SPEC_MAX_HEAD_DIM, head_dim, &spec->head_dim,
                              err));
    if (!tt_spec_find(config, "head_dim") && !family->head_dim && spec->hidden % spec->n_heads)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: %shidden_size: found %d, expected a multiple of the %d heads, since "
                       "head_dim is not given",
                       config->path, config->prefix, spec->hidden, spec->n_heads);
    return TT_OK;
}

static tt_status read_heads(const tt_spec_keys *config, const tt_spec_family *family, tt_spec *spec,
                            tt_error *err) {
    TT_TRY(read_head_counts(config, family, spec, err));
    if (spec->n_heads % spec->n_kv_heads)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: %snum_key_value_heads: found %d%s, expected a divisor of the %d heads",
                       config->path, config->prefix, spec->n_kv_heads,
                       tt_spec_find(config, "num_key_value_heads") ? "" : " (the default)",
                       spec->n_heads);
    if (spec->head_dim % 2 || spec->head_dim < 2)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: %shead_dim: found %d, expected an even number (RoPE turns pairs)",
                       config->path, config->prefix, spec->head_dim);
    if (spec->n_heads * spec->head_dim > TT_SPEC_MAX_HIDDEN)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: %snum_attention_heads x head_dim: found %d x %d, expected at most %d",
                       config->path, config->prefix, spec->n_heads, spec->head_dim,
                       TT_SPEC_MAX_HIDDEN);
    return TT_OK;
}

static tt_status read_sizes(const tt_spec_keys *config, const tt_spec_family *family, tt_spec *spec,
                            tt_error *err) {
    const struct {
        const char *key;
        int max, fallback, *out;
    } sizes[] = {
        {"num_hidden_layers", TT_MAX_LAYERS, family->n_layers, &spec->n_layers},
        {"hidden_size", TT_SPEC_MAX_HIDDEN, family->hidden, &spec->hidden},
        {"intermediate_size", TT_SPEC_MAX_INTERMEDIATE, family->intermediate, &spec->intermediate},
        {"vocab_size", TT_SPEC_MAX_VOCAB, family->vocab, &spec->vocab},
        {"max_position_embeddings", TT_SPEC_MAX_POSITIONS, family->max_positions,
         &spec->max_positions},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        TT_TRY(tt_spec_read_count(config, sizes[i].key, sizes[i].max,
                                  or_required(sizes[i].fallback), sizes[i].out, err));
    /* Slices of one product, summed: the same mathematics at any value. */
    int pretraining_tp;
    TT_TRY(
        tt_spec_read_count(config, "pretraining_tp", TT_SPEC_MAX_HEADS, 1, &pretraining_tp, err));
    return read_heads(config, family, spec, err);
}

/* --- What blocks are made of ------------------------------------------------------------------ */

/* A missing key is the class's cap, an explicit null none. */
static tt_status read_cap(const tt_spec_keys *config, const char *key, double fallback, double *cap,
                          tt_error *err) {
    *cap = json_object_get(config->object, key) ? 0 : fallback;
    return tt_spec_read_number(config, key, false, 1e-3, 1e9, cap, err);
}

static tt_status read_caps(const tt_spec_keys *config, const tt_spec_family *family, tt_spec *spec,
                           tt_error *err) {
    double scalar = 256;
    TT_TRY(read_cap(config, "attn_logit_softcapping", family->attention_cap, &spec->attention_cap,
                    err));
    TT_TRY(read_cap(config, "final_logit_softcapping", family->logit_cap, &spec->logit_cap, err));
    TT_TRY(tt_spec_read_number(config, "query_pre_attn_scalar", false, 1e-3, 1e9, &scalar, err));
    spec->attention_scale = 1 / sqrt(scalar);
    return TT_OK;
}

static tt_status read_multipliers(const tt_spec_keys *config, tt_spec *spec, tt_error *err) {
    double attention = 1, embedding = 1, residual = 1, logits = 1;
    TT_TRY(tt_spec_read_number(config, "attention_multiplier", false, 1e-6, 1e6, &attention, err));
    TT_TRY(tt_spec_read_number(config, "embedding_multiplier", false, 1e-6, 1e6, &embedding, err));
    TT_TRY(tt_spec_read_number(config, "residual_multiplier", false, 1e-6, 1e6, &residual, err));
    TT_TRY(tt_spec_read_number(config, "logits_scaling", false, 1e-6, 1e6, &logits, err));
    spec->attention_scale = attention;
    spec->embed_scale = embedding;
    spec->residual_scale = residual;
    spec->logit_scale = 1 / logits;
    return TT_OK;
}

static tt_status read_block(const tt_spec_keys *config, const tt_spec_family *family, tt_spec *spec,
                            tt_error *err) {
    spec->norms = family->norms;
    spec->head_norm = family->head_norm;
    spec->gate = family->gate;
    spec->norm_offset = family->norm_offset;
    spec->qkv_bias = family->qkv_bias;
    spec->fused_qkv = spec->fused_gate_up = family->fused;
    if (family->scales_embedding) spec->embed_scale = sqrt(spec->hidden);
    spec->norm_eps = family->norm_eps;
    TT_TRY(tt_spec_read_number(config, "rms_norm_eps", false, 1e-30, 0.1, &spec->norm_eps, err));
    if (family->reads & TT_READS_ATTENTION_BIAS) {
        TT_TRY(tt_spec_read_bool(config, "attention_bias", &spec->qkv_bias, err));
        spec->o_bias = spec->qkv_bias;
    }
    if (family->reads & TT_READS_MLP_BIAS)
        TT_TRY(tt_spec_read_bool(config, "mlp_bias", &spec->mlp_bias, err));
    if (family->reads & TT_READS_CAPS) TT_TRY(read_caps(config, family, spec, err));
    if (family->reads & TT_READS_MULTIPLIERS) TT_TRY(read_multipliers(config, spec, err));
    TT_TRY(tt_spec_read_layers(config, family, spec, err));
    TT_TRY(tt_spec_read_experts(config, family, spec, err));
    return tt_spec_read_ropes(config, family, spec, err);
}

/* --- The head, and what a model that is trained from random numbers starts as ----------------- */

/* Of a file with a text_config the whole's word counts; the part's must be the same. */
static tt_status read_tied(const tt_spec_keys *whole, const tt_spec_keys *text,
                           const tt_spec_family *family, tt_spec *spec, tt_error *err) {
    spec->tied_head = family->tied_head;
    TT_TRY(tt_spec_read_bool(whole, "tie_word_embeddings", &spec->tied_head, err));
    bool tied = spec->tied_head;
    TT_TRY(tt_spec_read_bool(text, "tie_word_embeddings", &tied, err));
    if (tied == spec->tied_head) return TT_OK;
    return tt_spec_fail(
        text, "tie_word_embeddings",
        spec->tied_head ? "true, as for the whole model" : "false, as for the whole model", err);
}

static tt_status read_dtype(const tt_spec_keys *from, tt_dtype *out, tt_error *err) {
    static const struct {
        const char *name;
        tt_dtype dtype;
    } dtypes[] = {
        {"float32", TT_DTYPE_F32}, {"bfloat16", TT_DTYPE_BF16}, {"float16", TT_DTYPE_F16}};
    const char *key = tt_spec_find(from, "dtype") ? "dtype" : "torch_dtype";
    const json_t *value = tt_spec_find(from, key);
    const char *name = json_string_value(value);
    bool is_known = !value;
    for (size_t i = 0; name && i < sizeof dtypes / sizeof *dtypes; i++) {
        if (strcmp(name, dtypes[i].name) != 0) continue;
        *out = dtypes[i].dtype;
        is_known = true;
    }
    if (is_known) return TT_OK;
    return tt_spec_fail(from, key, "\"float32\", \"bfloat16\" or \"float16\"", err);
}

static tt_status read_beginning(const tt_spec_keys *whole, const tt_spec_keys *text, tt_spec *spec,
                                tt_error *err) {
    spec->dtype = TT_DTYPE_F32;
    TT_TRY(read_dtype(text, &spec->dtype, err));
    TT_TRY(read_dtype(whole, &spec->dtype, err));
    spec->init_range = 0.02;
    return tt_spec_read_number(text, "initializer_range", false, 0, 100, &spec->init_range, err);
}

/* --- Special tokens --------------------------------------------------------------------------- */

static tt_status read_id(const tt_spec_keys *from, const char *key, const json_t *value, int vocab,
                         int *out, tt_error *err) {
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) >= vocab) {
        char expected[64];
        snprintf(expected, sizeof expected, "a token id from 0 to %d", vocab - 1);
        return tt_spec_fail(from, key, expected, err);
    }
    *out = (int)json_integer_value(value);
    return TT_OK;
}

/* Takes what this file says, if it says anything (null is an answer: none). */
static tt_status read_special(const tt_spec_keys *from, tt_spec *spec, tt_error *err) {
    const json_t *bos = json_object_get(from->object, "bos_token_id");
    if (bos) spec->bos_id = -1;
    if (bos && !json_is_null(bos))
        TT_TRY(read_id(from, "bos_token_id", bos, spec->vocab, &spec->bos_id, err));
    json_t *eos = json_object_get(from->object, "eos_token_id");
    if (!eos) return TT_OK;
    spec->n_eos = 0;
    if (json_is_null(eos)) return TT_OK;
    size_t n = json_is_array(eos) ? json_array_size(eos) : 1;
    if (n > TT_MAX_EOS) {
        char expected[32];
        snprintf(expected, sizeof expected, "at most %d", TT_MAX_EOS);
        return tt_spec_fail(from, "eos_token_id", expected, err);
    }
    for (size_t i = 0; i < n; i++)
        TT_TRY(read_id(from, "eos_token_id", json_is_array(eos) ? json_array_get(eos, i) : eos,
                       spec->vocab, &spec->eos_ids[i], err));
    spec->n_eos = (int)n;
    return TT_OK;
}

/* The class's defaults, for files that say nothing; ids outside of small vocabularies are none. */
static void default_special(const tt_spec_family *family, tt_spec *spec) {
    spec->bos_id = family->bos_id < spec->vocab ? family->bos_id : -1;
    spec->n_eos = family->eos_id >= 0 && family->eos_id < spec->vocab;
    spec->eos_ids[0] = spec->n_eos ? family->eos_id : 0;
}

/* --- The files -------------------------------------------------------------------------------- */

/* Where the network's settings stand: at top level, or in text_config. */
static tt_status find_text(const tt_spec_keys *whole, const tt_spec_family *family,
                           tt_spec_keys *text, tt_error *err) {
    *text = *whole;
    if (!(family->reads & TT_READS_TEXT_CONFIG)) return TT_OK;
    json_t *object = tt_spec_find(whole, "text_config");
    if (!json_is_object(object)) return tt_spec_fail(whole, "text_config", "an object", err);
    *text = (tt_spec_keys){whole->path, "text_config.", object};
    const json_t *type = tt_spec_find(text, "model_type");
    const char *name = json_string_value(type);
    char expected[64];
    snprintf(expected, sizeof expected, "%s_text", family->model_type);
    if (type && (!name || strcmp(name, expected) != 0))
        return tt_spec_fail(text, "model_type", expected, err);
    return tt_spec_refuse_unread(whole, family, TT_READS_TEXT_CONFIG, err);
}

static tt_status read_whole(const tt_spec_keys *whole, tt_spec *spec, tt_error *err) {
    const tt_spec_family *family;
    tt_spec_keys text;
    TT_TRY(tt_spec_find_family(whole, &family, err));
    snprintf(spec->model_type, sizeof spec->model_type, "%s", family->model_type);
    snprintf(spec->architecture, sizeof spec->architecture, "%s", family->architecture);
    TT_TRY(find_text(whole, family, &text, err));
    bool is_nested = text.object != whole->object;
    TT_TRY(tt_spec_refuse_unknown(whole, err));
    TT_TRY(tt_spec_refuse_unknown(&text, err));
    TT_TRY(tt_spec_refuse_unread(
        &text, family, is_nested ? family->reads & ~(unsigned)TT_READS_TEXT_CONFIG : family->reads,
        err));
    TT_TRY(read_sizes(&text, family, spec, err));
    TT_TRY(read_block(&text, family, spec, err));
    TT_TRY(read_tied(whole, &text, family, spec, err));
    TT_TRY(read_beginning(whole, &text, spec, err));
    tt_spec_complete(spec);
    default_special(family, spec);
    TT_TRY(read_special(&text, spec, err));
    return is_nested ? read_special(whole, spec, err) : TT_OK;
}

static tt_status read_config(const char *path, tt_spec *spec, tt_error *err) {
    tt_spec_keys config = {path, "", NULL};
    TT_TRY(tt_json_read_object(path, MAX_CONFIG_BYTES, &config.object, err));
    tt_status status = read_whole(&config, spec, err);
    if (status == TT_OK)
        status = tt_spec_read_quantisation(path, config.object, &spec->quantisation, err);
    json_decref(config.object);
    return status;
}

static tt_status read_generation_config(const char *path, tt_spec *spec, tt_error *err) {
    if (!tt_file_exists(path)) return TT_OK;
    tt_spec_keys config = {path, "", NULL};
    TT_TRY(tt_json_read_object(path, MAX_CONFIG_BYTES, &config.object, err));
    tt_status status = read_special(&config, spec, err);
    json_decref(config.object);
    return status;
}

tt_status tt_spec_read(const char *model_dir, tt_spec *out, tt_error *err) {
    char path[4096];
    tt_spec spec;
    memset(out, 0, sizeof *out);
    memset(&spec, 0, sizeof spec);
    TT_TRY(tt_file_join(path, sizeof path, model_dir, "config.json", err));
    TT_TRY(read_config(path, &spec, err));
    TT_TRY(tt_file_join(path, sizeof path, model_dir, "generation_config.json", err));
    TT_TRY(read_generation_config(path, &spec, err));
    memcpy(out, &spec, sizeof spec); /* padding too: callers may compare or hash a spec */
    return TT_OK;
}
