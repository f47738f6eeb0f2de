/* state.json, and files held against it.
 *
 * The last key of the object is "xxh3", the checksum of all text before it; its line has a fixed
 * form, so that every byte of the file is either covered by the checksum or must be what it is. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "checkpoint_private.h"
#include "trimtab/file.h"

#define FORMAT_NAME "trimtab-checkpoint-1"
enum { MAX_STATE_BYTES = 1 << 28, HEX_BYTES = 17 };

/* Text after the checksummed part: ,\n "xxh3": "0123456789abcdef"\n}\n */
static const char seal_begin[] = ",\n \"xxh3\": \"", seal_end[] = "\"\n}\n";
enum { SEAL_BYTES = sizeof seal_begin - 1 + HEX_BYTES - 1 + sizeof seal_end - 1 };

static void to_hex(uint64_t value, char out[HEX_BYTES]) {
    for (int i = 0; i < 16; i++) out[i] = "0123456789abcdef"[value >> (60 - 4 * i) & 15];
    out[16] = 0;
}

static bool from_hex(const char *text, size_t n, uint64_t *out) {
    if (n != 16) return false;
    *out = 0;
    for (size_t i = 0; i < n; i++) {
        const char *digit = text[i] ? strchr("0123456789abcdef", text[i]) : NULL;
        if (!digit) return false;
        *out = *out << 4 | (uint64_t)(digit - "0123456789abcdef");
    }
    return true;
}

/* --- Printing --------------------------------------------------------------------------------- */

static json_t *json_hex(uint64_t value) {
    char hex[HEX_BYTES];
    to_hex(value, hex);
    return json_string(hex);
}

/* JSON has no word for these. Finite numbers are printed with 17 digits: exactly. */
static json_t *json_number(double value) {
    if (isnan(value)) return json_string("nan");
    if (isinf(value)) return json_string(value > 0 ? "inf" : "-inf");
    return json_real(value);
}

static json_t *print_layout(const ckpt_layout *layout) {
    json_t *tensors = json_object();
    for (size_t i = 0; tensors && i < layout->n; i++) {
        json_t *entry = json_pack("{s:I, s:o}", "bytes", (json_int_t)layout->tensors[i].n_bytes,
                                  "xxh3", json_hex(layout->xxh3[i]));
        if (!entry || json_object_set_new(tensors, layout->names[i], entry) != 0) {
            json_decref(tensors);
            tensors = NULL;
        }
    }
    return json_pack("{s:I, s:I, s:o, s:o}", "bytes", (json_int_t)layout->file_bytes,
                     "header_bytes", (json_int_t)layout->header_bytes, "header_xxh3",
                     json_hex(XXH3_64bits(layout->header, layout->header_bytes)), "tensors",
                     tensors);
}

static json_t *print_state(const tt_world *world, const tt_checkpoint_state *state, json_t *job,
                           const ckpt_layout layouts[CKPT_N_FILES]) {
    json_t *best = state->has_best
                       ? json_pack("{s:o, s:I}", "metric", json_number(state->best_metric), "step",
                                   (json_int_t)state->best_step)
                       : json_null();
    json_t *layout = json_pack("{s:i, s:i, s:i}", "ranks", world->n_ranks, "stages",
                               world->n_stages, "replicas", world->n_replicas);
    json_t *files =
        json_pack("{s:o, s:o}", ckpt_file_names[CKPT_ADAPTER], print_layout(&layouts[CKPT_ADAPTER]),
                  ckpt_file_names[CKPT_OPTIMIZER], print_layout(&layouts[CKPT_OPTIMIZER]));
    return json_pack("{s:s, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "format",
                     FORMAT_NAME, "generation", (json_int_t)state->generation, "step",
                     (json_int_t)state->step, "n_steps", (json_int_t)state->n_steps, "seed",
                     json_hex(state->seed), "dataset_fingerprint",
                     json_hex(state->dataset_fingerprint), "model_fingerprint",
                     json_hex(state->model_fingerprint), "best", best, "last_loss",
                     json_number(state->last_loss), "layout", layout, "job", job, "files", files);
}

/* Replaces the closing brace by the seal. */
static char *seal(const char *text, size_t *n_bytes) {
    size_t n = strlen(text);
    const char *end = "\n}";
    if (n < 2 || strcmp(text + n - 2, end) != 0) return NULL;
    n -= 2;
    char *sealed = malloc(n + SEAL_BYTES + 1);
    if (!sealed) return NULL;
    memcpy(sealed, text, n);
    char *at = sealed + n;
    memcpy(at, seal_begin, sizeof seal_begin - 1);
    at += sizeof seal_begin - 1;
    to_hex(XXH3_64bits(text, n), at);
    memcpy(at + HEX_BYTES - 1, seal_end, sizeof seal_end);
    *n_bytes = n + SEAL_BYTES;
    return sealed;
}

tt_status ckpt_manifest_print(const tt_world *world, const tt_checkpoint_state *state,
                              const char *job, const ckpt_layout layouts[CKPT_N_FILES], char **out,
                              size_t *n_bytes, tt_error *err) {
    *out = NULL;
    json_t *job_text = json_string(job);
    /* jansson does not tell the two apart. */
    if (!job_text)
        return tt_fail(err, TT_ERR_CONFIG,
                       "%s: the resolved job is not UTF-8, or there is no memory for it",
                       CKPT_STATE_FILE);
    json_t *root = print_state(world, state, job_text, layouts);
    char *text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
    json_decref(root);
    *out = text ? seal(text, n_bytes) : NULL;
    free(text);
    if (!*out) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory to print it", CKPT_STATE_FILE);
    return TT_OK;
}

/* --- Parsing ---------------------------------------------------------------------------------- */

static tt_status check_seal(const char *path, const char *text, size_t n_bytes, size_t *n_body,
                            tt_error *err) {
    const size_t n_begin = sizeof seal_begin - 1, n_end = sizeof seal_end - 1;
    if (n_bytes < SEAL_BYTES || memcmp(text + n_bytes - SEAL_BYTES, seal_begin, n_begin) != 0 ||
        memcmp(text + n_bytes - n_end, seal_end, n_end) != 0)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: found no checksum line at its end, expected \"xxh3\": truncated or "
                       "damaged",
                       path);
    uint64_t expected, found = XXH3_64bits(text, n_bytes - SEAL_BYTES);
    if (!from_hex(text + n_bytes - n_end - 16, 16, &expected) || found != expected)
        return tt_fail(err, TT_ERR_FORMAT, "%s: checksum found %016llx, expected %.16s", path,
                       (unsigned long long)found, text + n_bytes - n_end - 16);
    *n_body = n_bytes - SEAL_BYTES;
    return TT_OK;
}

static tt_status fail_key(const char *path, const char *key, const char *expected, tt_error *err) {
    return tt_fail(err, TT_ERR_FORMAT, "%s: %s: missing or wrong, expected %s", path, key,
                   expected);
}

static tt_status read_count(const char *path, const json_t *object, const char *key, int64_t *out,
                            tt_error *err) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return fail_key(path, key, "a whole number, not negative", err);
    *out = json_integer_value(value);
    return TT_OK;
}

static tt_status read_bytes(const char *path, const json_t *object, const char *key, uint64_t *out,
                            tt_error *err) {
    int64_t value;
    TT_TRY(read_count(path, object, key, &value, err));
    *out = (uint64_t)value;
    return TT_OK;
}

static tt_status read_hex(const char *path, const json_t *object, const char *key, uint64_t *out,
                          tt_error *err) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_string(value) ||
        !from_hex(json_string_value(value), json_string_length(value), out))
        return fail_key(path, key, "16 hexadecimal digits", err);
    return TT_OK;
}

static tt_status read_number(const char *path, const json_t *object, const char *key, double *out,
                             tt_error *err) {
    const json_t *value = json_object_get(object, key);
    const char *word = json_is_string(value) ? json_string_value(value) : "";
    if (json_is_number(value))
        *out = json_number_value(value);
    else if (strcmp(word, "nan") == 0)
        *out = NAN;
    else if (strcmp(word, "inf") == 0 || strcmp(word, "-inf") == 0)
        *out = *word == '-' ? -INFINITY : INFINITY;
    else
        return fail_key(path, key, "a number", err);
    return TT_OK;
}

static tt_status read_best(const char *path, const json_t *root, tt_checkpoint_state *state,
                           tt_error *err) {
    const json_t *best = json_object_get(root, "best");
    if (json_is_null(best)) return TT_OK;
    if (!json_is_object(best)) return fail_key(path, "best", "null or an object", err);
    state->has_best = true;
    TT_TRY(read_number(path, best, "metric", &state->best_metric, err));
    return read_count(path, best, "step", &state->best_step, err);
}

/* Checks one file's entries, and that header and tensors make up its length. */
static tt_status read_file_entry(const char *path, const json_t *files, int which,
                                 ckpt_manifest *out, tt_error *err) {
    const json_t *file = json_object_get(files, ckpt_file_names[which]);
    if (!json_is_object(file)) return fail_key(path, ckpt_file_names[which], "an object", err);
    uint64_t n_bytes, end;
    TT_TRY(read_bytes(path, file, "bytes", &n_bytes, err));
    TT_TRY(read_bytes(path, file, "header_bytes", &end, err));
    TT_TRY(read_hex(path, file, "header_xxh3", &out->files[which].header_xxh3, err));
    out->files[which].n_bytes = n_bytes;
    out->files[which].header_bytes = end;
    json_t *tensors = json_object_get(file, "tensors");
    if (!json_is_object(tensors)) return fail_key(path, "tensors", "an object", err);
    const char *name;
    json_t *entry;
    json_object_foreach(tensors, name, entry) {
        uint64_t tensor_bytes, sum;
        TT_TRY(read_bytes(path, entry, "bytes", &tensor_bytes, err));
        TT_TRY(read_hex(path, entry, "xxh3", &sum, err));
        if (__builtin_add_overflow(end, tensor_bytes, &end)) end = UINT64_MAX;
    }
    if (end != n_bytes)
        return tt_fail(
            err, TT_ERR_FORMAT, "%s: %s: header and tensors make %llu bytes, expected %llu", path,
            ckpt_file_names[which], (unsigned long long)end, (unsigned long long)n_bytes);
    out->files[which].tensors = tensors;
    return TT_OK;
}

static tt_status read_fields(const char *path, ckpt_manifest *out, tt_error *err) {
    const json_t *root = out->root, *format = json_object_get(root, "format");
    tt_checkpoint_state *state = &out->state;
    if (!json_is_string(format) || strcmp(json_string_value(format), FORMAT_NAME) != 0)
        return fail_key(path, "format", "\"" FORMAT_NAME "\"", err);
    TT_TRY(read_count(path, root, "generation", &state->generation, err));
    TT_TRY(read_count(path, root, "step", &state->step, err));
    TT_TRY(read_count(path, root, "n_steps", &state->n_steps, err));
    TT_TRY(read_hex(path, root, "seed", &state->seed, err));
    TT_TRY(read_hex(path, root, "dataset_fingerprint", &state->dataset_fingerprint, err));
    TT_TRY(read_hex(path, root, "model_fingerprint", &state->model_fingerprint, err));
    TT_TRY(read_best(path, root, state, err));
    TT_TRY(read_number(path, root, "last_loss", &state->last_loss, err));
    out->job = json_string_value(json_object_get(root, "job"));
    if (!out->job) return fail_key(path, "job", "a text", err);
    const json_t *files = json_object_get(root, "files");
    for (int which = 0; which < CKPT_N_FILES; which++)
        TT_TRY(read_file_entry(path, files, which, out, err));
    return TT_OK;
}

tt_status ckpt_manifest_parse(const char *path, const char *text, size_t n_bytes,
                              ckpt_manifest *out, tt_error *err) {
    *out = (ckpt_manifest){0};
    size_t n_body;
    TT_TRY(check_seal(path, text, n_bytes, &n_body, err));
    json_error_t where;
    out->root = json_loadb(text, n_bytes, JSON_REJECT_DUPLICATES, &where);
    if (!out->root) return tt_fail(err, TT_ERR_FORMAT, "%s:%d: %s", path, where.line, where.text);
    tt_status status = read_fields(path, out, err);
    if (status != TT_OK) ckpt_manifest_free(out);
    return status;
}

void ckpt_manifest_free(ckpt_manifest *manifest) {
    json_decref(manifest->root);
    *manifest = (ckpt_manifest){0};
}

tt_status ckpt_manifest_read(const char *dir, char **text, size_t *n_bytes, tt_error *err) {
    char path[TT_PATH_BYTES];
    *text = NULL;
    *n_bytes = 0;
    TT_TRY(tt_file_join(path, sizeof path, dir, CKPT_STATE_FILE, err));
    return tt_file_read_all(path, MAX_STATE_BYTES, text, n_bytes, err);
}
