#include "trimtab/peft.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "json_private.h"
#include "trimtab/file.h"

enum { MAX_CONFIG_BYTES = 1 << 22, MAX_RANK = 1 << 16 };

/* --- Reading ---------------------------------------------------------------------------------- */

/* Keys that say nothing about what the adapter computes. */
static const char *const silent_keys[] = {
    "auto_mapping",      "base_model_name_or_path", "inference_mode",      "peft_version",
    "revision",          "runtime_config",          "megatron_core",       "task_type",
    "qalora_group_size", "layers_pattern",          "loftq_config",        "eva_config",
    "corda_config",      "lora_ga_config",          "ensure_weight_tying", "exclude_modules"};
/* Keys that read_config looks at. */
static const char *const used_keys[] = {
    "peft_type",    "r",    "lora_alpha",     "use_rslora",          "use_dora",
    "lora_dropout", "bias", "target_modules", "layers_to_transform", "init_lora_weights"};

typedef struct config_file {
    const char *path;
    json_t *root;
    tt_error *err;
} config_file;

static tt_status fail_key(const config_file *in, const char *key, const char *expected) {
    char shown[TT_JSON_SHOWN_BYTES], shown_key[TT_JSON_SHOWN_BYTES];
    return tt_fail(in->err, TT_ERR_FORMAT, "%s: %s: found %s, expected %s", in->path,
                   tt_json_shown(key, shown_key),
                   tt_json_shown_value(json_object_get(in->root, key), shown), expected);
}

static bool is_in(const char *key, const char *const *keys, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(key, keys[i]) == 0) return true;
    return false;
}

static bool is_off(const json_t *value) {
    return json_is_null(value) || json_is_false(value) ||
           (json_is_object(value) && json_object_size(value) == 0) ||
           (json_is_array(value) && json_array_size(value) == 0);
}

/* Whatever is neither used nor silent must be switched off. */
static tt_status refuse_others(const config_file *in) {
    const char *key;
    json_t *value;
    json_object_foreach(in->root, key, value) {
        if (is_in(key, used_keys, sizeof used_keys / sizeof *used_keys) ||
            is_in(key, silent_keys, sizeof silent_keys / sizeof *silent_keys) || is_off(value))
            continue;
        return fail_key(in, key, "null, false or empty: what it does is not supported");
    }
    return TT_OK;
}

static tt_status read_flag(const config_file *in, const char *key, bool *out) {
    const json_t *value = json_object_get(in->root, key);
    *out = json_is_true(value);
    if (!value || json_is_boolean(value)) return TT_OK;
    return fail_key(in, key, "true or false");
}

static tt_status read_number(const config_file *in, const char *key, double missing, double min,
                             double max, double *out) {
    const json_t *value = json_object_get(in->root, key);
    *out = value ? json_number_value(value) : missing;
    if ((!value || json_is_number(value)) && *out >= min && *out <= max) return TT_OK;
    return fail_key(in, key, "a number in its range");
}

static tt_status read_kind(const config_file *in) {
    const char *type = json_string_value(json_object_get(in->root, "peft_type"));
    if (!type || strcmp(type, "LORA") != 0) return fail_key(in, "peft_type", "\"LORA\"");
    const json_t *bias = json_object_get(in->root, "bias");
    if (bias && (!json_is_string(bias) || strcmp(json_string_value(bias), "none") != 0))
        return fail_key(in, "bias", "\"none\": trained biases are not supported");
    /* These starts change the frozen weights too, which the directory does not hold. */
    const json_t *init = json_object_get(in->root, "init_lora_weights");
    const char *word = json_string_value(init);
    if (!init || json_is_boolean(init) ||
        (word && (strcmp(word, "gaussian") == 0 || strcmp(word, "orthogonal") == 0 ||
                  strcmp(word, "eva") == 0)))
        return TT_OK;
    return fail_key(in, "init_lora_weights",
                    "true, false, \"gaussian\", \"orthogonal\" or \"eva\"; others change the base "
                    "model: save the adapter as a plain LoRA "
                    "(path_initial_model_for_weight_conversion)");
}

static tt_status read_targets(const config_file *in, tt_peft_config *out) {
    const json_t *list = json_object_get(in->root, "target_modules");
    out->n_targets = 0;
    if (json_is_string(list)) return TT_OK; /* a pattern: the tensors tell */
    if (!json_is_array(list) || json_array_size(list) == 0 ||
        json_array_size(list) > TT_PEFT_MAX_MODULES)
        return fail_key(in, "target_modules", "a list of at most 64 names, or a pattern");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (!name || !name[0] || strlen(name) >= TT_PEFT_MODULE_BYTES)
            return fail_key(in, "target_modules", "names of modules");
        strcpy(out->targets[out->n_targets++], name);
    }
    return TT_OK;
}

static tt_status read_layers(const config_file *in, tt_peft_config *out) {
    const json_t *value = json_object_get(in->root, "layers_to_transform");
    out->n_layers = -1;
    if (!value || json_is_null(value)) return TT_OK;
    size_t n = json_is_array(value) ? json_array_size(value) : 1;
    bool good = n > 0 && n <= TT_PEFT_MAX_LAYERS;
    out->n_layers = 0;
    for (size_t i = 0; good && i < n; i++) {
        const json_t *layer = json_is_array(value) ? json_array_get(value, i) : value;
        good = json_is_integer(layer) && json_integer_value(layer) >= 0 &&
               json_integer_value(layer) < TT_PEFT_MAX_LAYERS;
        if (good) out->layers[out->n_layers++] = (int)json_integer_value(layer);
    }
    return good ? TT_OK : fail_key(in, "layers_to_transform", "null or numbers of layers");
}

static tt_status read_config(const config_file *in, tt_peft_config *out) {
    double rank;
    TT_TRY(read_kind(in));
    TT_TRY(read_number(in, "r", 8, 1, MAX_RANK, &rank));
    out->rank = (int)rank;
    if (rank != floor(rank)) return fail_key(in, "r", "a whole number");
    TT_TRY(read_number(in, "lora_alpha", 8, 1e-6, 1e6, &out->alpha));
    TT_TRY(read_number(in, "lora_dropout", 0, 0, 0.999999, &out->dropout));
    TT_TRY(read_flag(in, "use_rslora", &out->rslora));
    TT_TRY(read_flag(in, "use_dora", &out->dora));
    TT_TRY(read_targets(in, out));
    TT_TRY(read_layers(in, out));
    return refuse_others(in);
}

tt_status tt_peft_read(const char *path, tt_peft_config *out, tt_error *err) {
    config_file in = {path, NULL, err};
    *out = (tt_peft_config){0};
    TT_TRY(tt_json_read_object(path, MAX_CONFIG_BYTES, &in.root, err));
    tt_status status = read_config(&in, out);
    json_decref(in.root);
    return status;
}

bool tt_peft_matches(const tt_peft_config *config, int i, const char *module) {
    const char *target = config->targets[i];
    size_t n = strlen(target), n_module = strlen(module);
    if (n > n_module || strcmp(module + n_module - n, target) != 0) return false;
    return n == n_module || module[n_module - n - 1] == '.';
}

/* --- Writing ---------------------------------------------------------------------------------- */

/* Whole numbers as such: PEFT's own type of alpha is int. */
static json_t *number(double value) {
    if (value == floor(value) && fabs(value) < 1e15) return json_integer((json_int_t)value);
    return json_real(value);
}

static json_t *target_list(const tt_peft_config *config) {
    if (config->pattern) return json_string(config->pattern);
    json_t *list = json_array();
    for (int i = 0; i < config->n_targets; i++)
        if (json_array_append_new(list, json_string(config->targets[i])) != 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

static json_t *layer_list(const tt_peft_config *config) {
    if (config->n_layers < 0) return json_null();
    json_t *list = json_array();
    for (int i = 0; i < config->n_layers; i++)
        if (json_array_append_new(list, json_integer(config->layers[i])) != 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

tt_status tt_peft_write(const char *path, const tt_peft_config *config, tt_error *err) {
    json_t *root = json_pack(
        "{s:s, s:s, s:s, s:s, s:i, s:o, s:o, s:b, s:b, s:o, s:o, s:b, s:b, s:b, s:n, s:n, s:n, "
        "s:n, s:{}, s:{}, s:n, s:{}}",
        "peft_type", "LORA", "task_type", "CAUSAL_LM", "bias", "none", "base_model_name_or_path",
        config->base_model, "r", config->rank, "lora_alpha", number(config->alpha), "lora_dropout",
        json_real(config->dropout), "use_rslora", config->rslora, "use_dora", config->dora,
        "target_modules", target_list(config), "layers_to_transform", layer_list(config),
        "fan_in_fan_out", 0, "inference_mode", 1, "init_lora_weights", 1, "modules_to_save",
        "layers_pattern", "auto_mapping", "revision", "rank_pattern", "alpha_pattern",
        "megatron_config", "loftq_config");
    char *text = root ? json_dumps(root, JSON_INDENT(2) | JSON_SORT_KEYS) : NULL;
    json_decref(root);
    if (!text) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory, or a path not in UTF-8", path);
    tt_status status = tt_file_write_atomic(path, text, strlen(text), err);
    free(text);
    return status;
}
