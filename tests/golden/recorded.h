/* recorded: reading what the recording scripts wrote: golden.json and golden.safetensors of a case,
 * fields that must be there, sequences of ids, and a method as (group, key, value) strings. Asserts
 * on failure. Include cmocka's headers first. */
#ifndef TRIMTAB_TESTS_RECORDED_H
#define TRIMTAB_TESTS_RECORDED_H

#include <string.h>
#include <jansson.h>

#include "network_rig.h"
#include "trimtab/job.h"
#include "trimtab/safetensors.h"

/* The case's two files; released by recorded_close. */
static inline void recorded_open(const char *dir, json_t **json, tt_safetensors **tensors) {
    char path[600];
    tt_error err = {0};
    json_error_t json_err;
    snprintf(path, sizeof path, "%s/golden.json", dir);
    *json = json_load_file(path, 0, &json_err);
    if (!*json) fail_msg("%s: %s", path, json_err.text);
    snprintf(path, sizeof path, "%s/golden.safetensors", dir);
    if (tt_safetensors_open(path, tensors, &err) != TT_OK) fail_msg("%s", err.text);
}

static inline void recorded_close(json_t *json, tt_safetensors *tensors) {
    json_decref(json);
    tt_safetensors_close(tensors);
}

static inline const json_t *field(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    if (!value) fail_msg("no recorded %s", key);
    return value;
}

static inline double number(const json_t *object, const char *key) {
    const json_t *value = field(object, key);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

static inline const json_t *at(const json_t *list, size_t i) {
    const json_t *value = json_array_get(list, i);
    assert_non_null(value);
    return value;
}

/* The ids of a case's sequences. */
enum { RECORDED_MAX_IDS = 4096 };
typedef struct recorded_ids {
    int32_t ids[RECORDED_MAX_IDS];
    int n;
} recorded_ids;

/* Ids of a JSON list, which are kept in `in`. */
static inline rig_sequence recorded_sequence(recorded_ids *in, const json_t *ids, int prompt_len) {
    rig_sequence out = {in->ids + in->n, (int)json_array_size(ids), prompt_len};
    assert_true(out.n > 0 && in->n + out.n <= RECORDED_MAX_IDS);
    for (int i = 0; i < out.n; i++)
        in->ids[in->n++] = (int32_t)json_integer_value(at(ids, (size_t)i));
    return out;
}

/* One of a list of {ids, prompt_len}. */
static inline rig_sequence recorded_entry(recorded_ids *in, const json_t *entry) {
    return recorded_sequence(in, field(entry, "ids"), (int)number(entry, "prompt_len"));
}

/* Sets the key of that group and name. */
static inline void set_key(tt_method *method, const char *group, const char *name,
                           const char *value) {
    char text[2 * TT_TEXT_BYTES];
    const char *its_group, *its_name;
    tt_error err = {0};
    for (int i = 0; i < tt_method_n_keys(); i++) {
        tt_method_get(method, i, &its_group, &its_name, text, sizeof text);
        if (strcmp(group, its_group) != 0 || strcmp(name, its_name) != 0) continue;
        if (tt_method_set(method, i, value, &err) != TT_OK) fail_msg("%s", err.text);
        return;
    }
    fail_msg("no key %s.%s", group, name);
}

static inline tt_method method_of(const json_t *keys) {
    tt_method out;
    tt_error err = {0};
    size_t i;
    json_t *key;
    tt_method_defaults(&out);
    json_array_foreach(keys, i, key)
        set_key(&out, json_string_value(at(key, 0)), json_string_value(at(key, 1)),
                json_string_value(at(key, 2)));
    if (tt_method_check(&out, &err) != TT_OK) fail_msg("%s", err.text);
    return out;
}

#endif
