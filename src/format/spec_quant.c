#include "spec_quant.h"

#include <string.h>

#include "json_private.h"

enum { MAX_BLOCK = 1 << 20, LEAST_BLOCK_COLS = 64 };

/* An object within quantization_config; prefix names it in messages. */
typedef struct part {
    const char *path, *prefix;
    json_t *object;
} part;

/* What a key may say; nothing else may stand there. */
typedef enum rule { ANYTHING, NOTHING, TRUE_, FALSE_, EIGHT, TEXT } rule;

typedef struct key_row {
    const char *key;
    rule rule;
    const char *texts[3]; /* TEXT: one of these */
} key_row;

static tt_status fail_key(const part *from, const char *key, const char *expected, tt_error *err) {
    char shown[TT_JSON_SHOWN_BYTES], shown_key[TT_JSON_SHOWN_BYTES];
    return tt_fail(err, TT_ERR_FORMAT, "%s: %s.%s: found %s, expected %s", from->path, from->prefix,
                   tt_json_shown(key, shown_key),
                   tt_json_shown_value(json_object_get(from->object, key), shown), expected);
}

static tt_status check_key(const part *from, const key_row *row, const json_t *value,
                           tt_error *err) {
    const char *text = json_string_value(value);
    switch (row->rule) {
    case ANYTHING:
        return TT_OK;
    case NOTHING:
        return fail_key(from, row->key, "nothing: not supported", err);
    case TRUE_:
        return json_is_true(value) ? TT_OK : fail_key(from, row->key, "true", err);
    case FALSE_:
        return json_is_false(value) ? TT_OK : fail_key(from, row->key, "false", err);
    case EIGHT:
        return json_integer_value(value) == 8 ? TT_OK : fail_key(from, row->key, "8", err);
    case TEXT:
        break;
    }
    char expected[96] = "";
    for (int i = 0; i < 3 && row->texts[i]; i++) {
        if (text && strcmp(text, row->texts[i]) == 0) return TT_OK;
        if (i) strcat(expected, " or ");
        strcat(strcat(strcat(expected, "\""), row->texts[i]), "\"");
    }
    return fail_key(from, row->key, expected, err);
}

/* A null is as good as a missing key; a key of no row is refused. */
static tt_status check_keys(const part *from, const key_row *rows, size_t n, tt_error *err) {
    const char *key;
    json_t *value;
    json_object_foreach(from->object, key, value) {
        if (json_is_null(value)) continue;
        size_t i = 0;
        while (i < n && strcmp(key, rows[i].key) != 0) i++;
        if (i == n) return fail_key(from, key, "no such key: not supported", err);
        TT_TRY(check_key(from, &rows[i], value, err));
    }
    return TT_OK;
}

static bool is_block(const json_t *value, int64_t least) {
    int64_t n = json_integer_value(value);
    return json_is_integer(value) && n >= least && n <= MAX_BLOCK && (n & (n - 1)) == 0;
}

static tt_status read_block(const part *from, const char *key, tt_quantisation *out,
                            tt_error *err) {
    const json_t *list = json_object_get(from->object, key);
    const json_t *rows = json_array_get(list, 0), *cols = json_array_get(list, 1);
    if (json_array_size(list) != 2 || !is_block(rows, 1) || !is_block(cols, LEAST_BLOCK_COLS))
        return fail_key(from, key, "[rows, columns], powers of two, 64 columns at least", err);
    out->block_rows = (int)json_integer_value(rows);
    out->block_cols = (int)json_integer_value(cols);
    return TT_OK;
}

static tt_status read_fp8(const part *from, tt_quantisation *out, tt_error *err) {
    static const key_row rows[] = {{"quant_method", ANYTHING},
                                   {"fmt", TEXT, {"e4m3", "float8_e4m3fn"}},
                                   {"activation_scheme", TEXT, {"dynamic", "static"}},
                                   {"weight_block_size", ANYTHING},
                                   {"modules_to_not_convert", ANYTHING},
                                   {"ignored_layers", ANYTHING},
                                   {"scale_fmt", TEXT, {"float", "ue8m0"}},
                                   {"dequantize", ANYTHING},
                                   {"expert_dtype", TEXT, {"fp8"}},
                                   {"modules_to_convert", NOTHING},
                                   {"kv_cache_scheme", NOTHING}};
    TT_TRY(check_keys(from, rows, sizeof rows / sizeof *rows, err));
    out->is_fp8 = true;
    const json_t *block = json_object_get(from->object, "weight_block_size");
    return block && !json_is_null(block) ? read_block(from, "weight_block_size", out, err) : TT_OK;
}

/* --- compressed-tensors ----------------------------------------------------------------------- */

static tt_status read_group(const char *path, json_t *group, tt_quantisation *out, tt_error *err) {
    static const key_row group_rows[] = {{"weights", ANYTHING},
                                         {"targets", ANYTHING},
                                         {"input_activations", ANYTHING},
                                         {"output_activations", NOTHING},
                                         {"format", TEXT, {"float-quantized"}}};
    static const key_row rows[] = {{"num_bits", EIGHT},
                                   {"type", TEXT, {"float"}},
                                   {"symmetric", TRUE_},
                                   {"dynamic", FALSE_},
                                   {"strategy", TEXT, {"tensor", "channel", "block"}},
                                   {"block_structure", ANYTHING},
                                   {"observer", ANYTHING},
                                   {"observer_kwargs", ANYTHING},
                                   {"scale_dtype", ANYTHING},
                                   {"zp_dtype", ANYTHING},
                                   {"actorder", NOTHING},
                                   {"group_size", NOTHING}};
    part from = {path, "quantization_config.config_groups", group};
    if (!json_is_object(group))
        return tt_fail(err, TT_ERR_FORMAT, "%s: %s: expected objects", path, from.prefix);
    TT_TRY(check_keys(&from, group_rows, sizeof group_rows / sizeof *group_rows, err));
    part weights = {path, "quantization_config.config_groups.weights",
                    json_object_get(group, "weights")};
    if (!json_is_object(weights.object)) return fail_key(&from, "weights", "an object", err);
    TT_TRY(check_keys(&weights, rows, sizeof rows / sizeof *rows, err));
    if (!json_object_get(weights.object, "num_bits") || !json_object_get(weights.object, "type"))
        return fail_key(&from, "weights", "num_bits and type", err);
    const char *strategy = json_string_value(json_object_get(weights.object, "strategy"));
    tt_quantisation found = {0};
    if (strategy && strcmp(strategy, "block") == 0)
        TT_TRY(read_block(&weights, "block_structure", &found, err));
    if (out->is_fp8 &&
        (out->block_rows != found.block_rows || out->block_cols != found.block_cols))
        return fail_key(&from, "weights", "the same blocks in every group", err);
    out->is_fp8 = true;
    out->block_rows = found.block_rows;
    out->block_cols = found.block_cols;
    return TT_OK;
}

static tt_status read_compressed(const part *from, tt_quantisation *out, tt_error *err) {
    static const key_row rows[] = {{"quant_method", ANYTHING},
                                   {"format", TEXT, {"float-quantized"}},
                                   {"config_groups", ANYTHING},
                                   {"ignore", ANYTHING},
                                   {"quantization_status", TEXT, {"compressed", "frozen"}},
                                   {"global_compression_ratio", ANYTHING},
                                   {"version", ANYTHING},
                                   {"kv_cache_scheme", NOTHING}};
    TT_TRY(check_keys(from, rows, sizeof rows / sizeof *rows, err));
    json_t *groups = json_object_get(from->object, "config_groups"), *group;
    if (!json_is_object(groups) || json_object_size(groups) == 0)
        return fail_key(from, "config_groups", "an object of groups, with one at least", err);
    const char *name;
    json_object_foreach(groups, name, group) TT_TRY(read_group(from->path, group, out, err));
    return TT_OK;
}

tt_status tt_spec_read_quantisation(const char *path, const json_t *config, tt_quantisation *out,
                                    tt_error *err) {
    part from = {path, "quantization_config", json_object_get(config, "quantization_config")};
    out->is_fp8 = false;
    out->block_rows = out->block_cols = 0;
    part text = {path, "text_config", json_object_get(config, "text_config")};
    const json_t *nested = json_object_get(text.object, "quantization_config");
    if (nested && !json_is_null(nested))
        return fail_key(&text, "quantization_config", "it at the top of the file", err);
    if (!from.object || json_is_null(from.object)) return TT_OK;
    const char *method = json_string_value(json_object_get(from.object, "quant_method"));
    if (method && strcmp(method, "fp8") == 0) return read_fp8(&from, out, err);
    if (method && strcmp(method, "compressed-tensors") == 0)
        return read_compressed(&from, out, err);
    return fail_key(&from, "quant_method",
                    "\"fp8\" or \"compressed-tensors\" (others are not supported)", err);
}
