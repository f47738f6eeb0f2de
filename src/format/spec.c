#include "trimtab/spec.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "json_private.h"
#include "trimtab/file.h"

/* Products of two of these, times layers and element bytes, stay far inside 63 bits. */
enum {
    MAX_CONFIG_BYTES = 1 << 20,
    MAX_HIDDEN = 1 << 20,
    MAX_INTERMEDIATE = 1 << 22,
    MAX_VOCAB = 1 << 24,
    MAX_HEADS = 1 << 14,
    MAX_HEAD_DIM = 1 << 12,
    MAX_POSITIONS = 1 << 30,
    DEFAULT_POSITIONS = 2048,
    REQUIRED = -1
};

static const double default_theta = 10000, default_norm_eps = 1e-6;

/* One JSON object of one file. prefix goes before a key in messages: "" or "rope_scaling.". */
typedef struct keys {
    const char *path, *prefix;
    json_t *object;
} keys;

/* NULL when missing or null: transformers takes both as "use the default". */
static json_t *find_value(const keys *from, const char *key) {
    json_t *value = json_object_get(from->object, key);
    return json_is_null(value) ? NULL : value;
}

static tt_status fail_value(const keys *from, const char *key, const char *expected,
                            tt_error *err) {
    char shown[TT_JSON_SHOWN_BYTES];
    return tt_fail(err, TT_ERR_FORMAT, "%s: %s%s: found %s, expected %s", from->path, from->prefix,
                   key, tt_json_shown_value(json_object_get(from->object, key), shown), expected);
}

/* A whole number of [1, max]; fallback when missing, unless REQUIRED. */
static tt_status read_count(const keys *from, const char *key, int max, int fallback, int *out,
                            tt_error *err) {
    const json_t *value = find_value(from, key);
    if (!value && fallback != REQUIRED) {
        *out = fallback;
        return TT_OK;
    }
    if (!json_is_integer(value) || json_integer_value(value) < 1 ||
        json_integer_value(value) > max) {
        char expected[64];
        snprintf(expected, sizeof expected, "a whole number from 1 to %d", max);
        return fail_value(from, key, expected, err);
    }
    *out = (int)json_integer_value(value);
    return TT_OK;
}

/* A number of [min, max]; *out keeps its value when the key is missing, unless required. */
static tt_status read_number(const keys *from, const char *key, bool required, double min,
                             double max, double *out, tt_error *err) {
    const json_t *value = find_value(from, key);
    if (!value && !required) return TT_OK;
    double number = json_number_value(value);
    if (!json_is_number(value) || !(number >= min && number <= max)) {
        char expected[64];
        snprintf(expected, sizeof expected, "a number from %g to %g", min, max);
        return fail_value(from, key, expected, err);
    }
    *out = number;
    return TT_OK;
}

static tt_status read_bool(const keys *from, const char *key, bool *out, tt_error *err) {
    const json_t *value = find_value(from, key);
    if (value && !json_is_boolean(value)) return fail_value(from, key, "true or false", err);
    *out = json_is_true(value);
    return TT_OK;
}

/* --- What the model is ------------------------------------------------------------------------ */

static tt_status read_names(const keys *config, tt_spec *spec, tt_error *err) {
    const char *model_type = json_string_value(find_value(config, "model_type"));
    if (!model_type || strcmp(model_type, "llama") != 0)
        return fail_value(config, "model_type", "\"llama\" (no other is supported yet)", err);
    const json_t *architectures = find_value(config, "architectures");
    const char *architecture = json_string_value(json_array_get(architectures, 0));
    if (architectures && (json_array_size(architectures) != 1 || !architecture ||
                          strcmp(architecture, "LlamaForCausalLM") != 0))
        return fail_value(config, "architectures", "[\"LlamaForCausalLM\"]", err);
    strcpy(spec->model_type, "llama");
    strcpy(spec->architecture, "LlamaForCausalLM");
    return TT_OK;
}

/* Settings that change the mathematics of relatives of Llama, or of Llama in ways not supported.
 * Harmless when missing, null, false, empty, or the neutral number. */
typedef struct unsupported_key {
    const char *key;
    double neutral; /* NAN: none */
} unsupported_key;

static const unsupported_key unsupported_keys[] = {
    {"quantization_config", NAN},
    {"auto_map", NAN}, /* code of its own beside the weights */
    {"sliding_window", NAN},
    {"use_sliding_window", NAN},
    {"partial_rotary_factor", 1},
    {"original_max_position_embeddings",
     NAN}, /* at top level it overrules the one in RoPE's keys */
    {"no_rope_layers", NAN},
    {"attention_dropout", 0},
    {"hidden_dropout", 0},
    {"resid_pdrop", 0},
    {"embd_pdrop", 0},
    {"attn_logit_softcapping", NAN},
    {"final_logit_softcapping", NAN},
    {"query_pre_attn_scalar", NAN},
    {"use_qk_norm", NAN},
    {"qk_layernorm", NAN},
    {"clip_qkv", NAN},
    {"alibi", NAN},
    {"attention_multiplier", NAN},
    {"embedding_multiplier", 1},
    {"residual_multiplier", 1},
    {"logits_scaling", 1},
    {"logit_scale", 1},
    {"num_local_experts", 0},
    {"num_experts", 0},
};

static bool is_harmless(const json_t *value, double neutral) {
    if (!value || json_is_false(value)) return true;
    if (json_is_number(value)) return json_number_value(value) == neutral;
    return (json_is_object(value) && json_object_size(value) == 0) ||
           (json_is_array(value) && json_array_size(value) == 0);
}

static tt_status refuse_unsupported(const keys *config, tt_error *err) {
    for (size_t i = 0; i < sizeof unsupported_keys / sizeof *unsupported_keys; i++) {
        const unsupported_key *row = &unsupported_keys[i];
        if (is_harmless(find_value(config, row->key), row->neutral)) continue;
        char expected[64] = "none: not supported";
        if (!isnan(row->neutral))
            snprintf(expected, sizeof expected, "%g: others are not supported", row->neutral);
        return fail_value(config, row->key, expected, err);
    }
    size_t i;
    json_t *type, *types = find_value(config, "layer_types");
    if (types && !json_is_array(types)) return fail_value(config, "layer_types", "a list", err);
    json_array_foreach(types, i, type) {
        const char *name = json_string_value(type);
        if (!name || strcmp(name, "full_attention") != 0)
            return fail_value(config, "layer_types", "\"full_attention\" for every layer", err);
    }
    const json_t *act = find_value(config, "hidden_act");
    const char *name = json_string_value(act);
    if (act && (!name || (strcmp(name, "silu") != 0 && strcmp(name, "swish") != 0)))
        return fail_value(config, "hidden_act", "\"silu\"", err);
    return TT_OK;
}

/* --- Sizes ------------------------------------------------------------------------------------ */

static tt_status read_heads(const keys *config, tt_spec *spec, tt_error *err) {
    TT_TRY(read_count(config, "num_attention_heads", MAX_HEADS, REQUIRED, &spec->n_heads, err));
    TT_TRY(read_count(config, "num_key_value_heads", MAX_HEADS, spec->n_heads, &spec->n_kv_heads,
                      err));
    TT_TRY(read_count(config, "head_dim", MAX_HEAD_DIM, spec->hidden / spec->n_heads,
                      &spec->head_dim, err));
    if (spec->n_heads % spec->n_kv_heads)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: num_key_value_heads: found %d, expected a divisor of the %d heads",
                       config->path, spec->n_kv_heads, spec->n_heads);
    if (!find_value(config, "head_dim") && spec->hidden % spec->n_heads)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: hidden_size: found %d, expected a multiple of the %d heads, since "
                       "head_dim is not given",
                       config->path, spec->hidden, spec->n_heads);
    if (spec->head_dim % 2 || spec->head_dim < 2)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: head_dim: found %d, expected an even number (RoPE turns pairs)",
                       config->path, spec->head_dim);
    if (spec->n_heads * spec->head_dim > MAX_HIDDEN)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: num_attention_heads x head_dim: found %d x %d, expected at most %d",
                       config->path, spec->n_heads, spec->head_dim, MAX_HIDDEN);
    return TT_OK;
}

static tt_status read_sizes(const keys *config, tt_spec *spec, tt_error *err) {
    TT_TRY(read_count(config, "num_hidden_layers", TT_MAX_LAYERS, REQUIRED, &spec->n_layers, err));
    TT_TRY(read_count(config, "hidden_size", MAX_HIDDEN, REQUIRED, &spec->hidden, err));
    TT_TRY(read_count(config, "intermediate_size", MAX_INTERMEDIATE, REQUIRED, &spec->intermediate,
                      err));
    TT_TRY(read_count(config, "vocab_size", MAX_VOCAB, REQUIRED, &spec->vocab, err));
    TT_TRY(read_count(config, "max_position_embeddings", MAX_POSITIONS, DEFAULT_POSITIONS,
                      &spec->max_positions, err));
    /* Slices of one product, summed: the same mathematics at any value. */
    int pretraining_tp;
    TT_TRY(read_count(config, "pretraining_tp", MAX_HEADS, 1, &pretraining_tp, err));
    TT_TRY(read_heads(config, spec, err));
    spec->norm_eps = default_norm_eps;
    TT_TRY(read_number(config, "rms_norm_eps", false, 1e-30, 0.1, &spec->norm_eps, err));
    TT_TRY(read_bool(config, "tie_word_embeddings", &spec->tied_head, err));
    TT_TRY(read_bool(config, "attention_bias", &spec->qkv_bias, err));
    spec->o_bias = spec->qkv_bias;
    return read_bool(config, "mlp_bias", &spec->mlp_bias, err);
}

/* What a model that is trained from random numbers starts as. */
static tt_status read_beginning(const keys *config, tt_spec *spec, tt_error *err) {
    static const struct {
        const char *name;
        tt_dtype dtype;
    } dtypes[] = {
        {"float32", TT_DTYPE_F32}, {"bfloat16", TT_DTYPE_BF16}, {"float16", TT_DTYPE_F16}};
    const char *key = find_value(config, "dtype") ? "dtype" : "torch_dtype";
    const json_t *value = find_value(config, key);
    const char *name = json_string_value(value);
    spec->dtype = TT_DTYPE_F32;
    bool is_known = !value;
    for (size_t i = 0; name && i < sizeof dtypes / sizeof *dtypes; i++) {
        if (strcmp(name, dtypes[i].name) != 0) continue;
        spec->dtype = dtypes[i].dtype;
        is_known = true;
    }
    if (!is_known) return fail_value(config, key, "\"float32\", \"bfloat16\" or \"float16\"", err);
    spec->init_range = 0.02;
    return read_number(config, "initializer_range", false, 0, 100, &spec->init_range, err);
}

/* --- RoPE ------------------------------------------------------------------------------------- */

static const char *const rope_names[] = {
    [TT_ROPE_DEFAULT] = "default", [TT_ROPE_LINEAR] = "linear", [TT_ROPE_LLAMA3] = "llama3"};

/* The object that holds RoPE's settings in either spelling; *from names it. */
static tt_status find_rope(const keys *config, keys *from, tt_error *err) {
    static const char *const names[] = {"rope_scaling", "rope_parameters"};
    json_t *found[2];
    for (int i = 0; i < 2; i++) {
        found[i] = find_value(config, names[i]);
        if (found[i] && !json_is_object(found[i]))
            return fail_value(config, names[i], "an object or null", err);
        if (json_object_size(found[i]) == 0) found[i] = NULL;
    }
    if (found[0] && found[1] && !json_equal(found[0], found[1]))
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: rope_scaling and rope_parameters: found both, with different contents",
                       config->path);
    *from = (keys){config->path, found[0] ? "rope_scaling." : "rope_parameters.",
                   found[0] ? found[0] : found[1]};
    return TT_OK;
}

static tt_status read_rope_kind(const keys *from, tt_rope *rope, tt_error *err) {
    static const char *const spellings[] = {"rope_type", "type"};
    int kind = -1;
    for (int i = 0; i < 2; i++) {
        const json_t *value = find_value(from, spellings[i]);
        if (!value) continue;
        int this_kind = -1;
        for (int k = TT_ROPE_DEFAULT; k <= TT_ROPE_LLAMA3; k++)
            if (json_is_string(value) && strcmp(json_string_value(value), rope_names[k]) == 0)
                this_kind = k;
        if (this_kind < 0)
            return fail_value(from, spellings[i], "\"default\", \"linear\" or \"llama3\"", err);
        if (kind >= 0 && kind != this_kind)
            return fail_value(from, spellings[i], "the same as rope_type", err);
        kind = this_kind;
    }
    rope->kind = kind < 0 ? TT_ROPE_DEFAULT : (tt_rope_kind)kind;
    return TT_OK;
}

/* A key that this kind of RoPE does not use would be ignored silently: refuse it. */
static tt_status check_rope_keys(const keys *from, tt_rope_kind kind, tt_error *err) {
    static const char *const known[] = {"rope_type",        "type",
                                        "rope_theta",       "partial_rotary_factor",
                                        "factor",           "low_freq_factor",
                                        "high_freq_factor", "original_max_position_embeddings"};
    static const size_t n_used[] = {
        [TT_ROPE_DEFAULT] = 4, [TT_ROPE_LINEAR] = 5, [TT_ROPE_LLAMA3] = 8};
    const char *key;
    json_t *value;
    json_object_foreach(from->object, key, value) {
        if (json_is_null(value)) continue;
        size_t i = 0;
        while (i < n_used[kind] && strcmp(key, known[i]) != 0) i++;
        if (i == n_used[kind]) {
            char expected[64], shown[TT_JSON_SHOWN_BYTES];
            snprintf(expected, sizeof expected, "no such key for rope_type \"%s\"",
                     rope_names[kind]);
            return tt_fail(err, TT_ERR_FORMAT, "%s: %s%s: found %s", from->path, from->prefix,
                           tt_json_shown(key, shown), expected);
        }
    }
    if (!is_harmless(find_value(from, "partial_rotary_factor"), 1))
        return fail_value(from, "partial_rotary_factor", "1: others are not supported", err);
    return TT_OK;
}

static tt_status read_rope(const keys *config, tt_rope *rope, tt_error *err) {
    keys from;
    TT_TRY(find_rope(config, &from, err));
    rope->theta = default_theta;
    TT_TRY(read_number(config, "rope_theta", false, 1, 1e15, &rope->theta, err));
    if (!from.object) return TT_OK;
    TT_TRY(read_rope_kind(&from, rope, err));
    TT_TRY(check_rope_keys(&from, rope->kind, err));
    TT_TRY(read_number(&from, "rope_theta", false, 1, 1e15, &rope->theta, err));
    if (rope->kind == TT_ROPE_DEFAULT) return TT_OK;
    TT_TRY(read_number(&from, "factor", true, 1, 1e9, &rope->factor, err));
    if (rope->kind == TT_ROPE_LINEAR) return TT_OK;
    TT_TRY(read_number(&from, "low_freq_factor", true, 1e-6, 1e9, &rope->low_freq_factor, err));
    TT_TRY(read_number(&from, "high_freq_factor", true, 1e-6, 1e9, &rope->high_freq_factor, err));
    TT_TRY(read_number(&from, "original_max_position_embeddings", true, 1, MAX_POSITIONS,
                       &rope->original_max_positions, err));
    if (rope->high_freq_factor <= rope->low_freq_factor)
        return fail_value(&from, "high_freq_factor", "more than low_freq_factor", err);
    return TT_OK;
}

/* --- Special tokens --------------------------------------------------------------------------- */

static tt_status read_id(const keys *from, const char *key, const json_t *value, int vocab,
                         int *out, tt_error *err) {
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) >= vocab) {
        char expected[64];
        snprintf(expected, sizeof expected, "a token id from 0 to %d", vocab - 1);
        return fail_value(from, key, expected, err);
    }
    *out = (int)json_integer_value(value);
    return TT_OK;
}

/* Takes what this file says, if it says anything (null is an answer: none). */
static tt_status read_special(const keys *from, tt_spec *spec, tt_error *err) {
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
        return fail_value(from, "eos_token_id", expected, err);
    }
    for (size_t i = 0; i < n; i++)
        TT_TRY(read_id(from, "eos_token_id", json_is_array(eos) ? json_array_get(eos, i) : eos,
                       spec->vocab, &spec->eos_ids[i], err));
    spec->n_eos = (int)n;
    return TT_OK;
}

/* LlamaConfig's class defaults, for files that say nothing. */
static void default_special(tt_spec *spec) {
    spec->bos_id = spec->vocab > 1 ? 1 : -1;
    spec->eos_ids[0] = 2;
    spec->n_eos = spec->vocab > 2;
}

/* --- The files -------------------------------------------------------------------------------- */

static tt_status read_config(const char *path, tt_spec *spec, tt_error *err) {
    keys config = {path, "", NULL};
    TT_TRY(tt_json_read_object(path, MAX_CONFIG_BYTES, &config.object, err));
    tt_status status = read_names(&config, spec, err);
    if (status == TT_OK) status = refuse_unsupported(&config, err);
    if (status == TT_OK) status = read_sizes(&config, spec, err);
    if (status == TT_OK) status = read_beginning(&config, spec, err);
    if (status == TT_OK) status = read_rope(&config, &spec->rope, err);
    if (status == TT_OK) tt_spec_complete(spec);
    if (status == TT_OK) default_special(spec);
    if (status == TT_OK) status = read_special(&config, spec, err);
    json_decref(config.object);
    return status;
}

static tt_status read_generation_config(const char *path, tt_spec *spec, tt_error *err) {
    if (!tt_file_exists(path)) return TT_OK;
    keys config = {path, "", NULL};
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
