/* recorded: reading what the recording scripts wrote as golden.json: fields that must be there, and
 * a method as (group, key, value) strings. Asserts on failure. Include cmocka's headers first. */
#ifndef TRIMTAB_TESTS_RECORDED_H
#define TRIMTAB_TESTS_RECORDED_H

#include <string.h>
#include <jansson.h>

#include "trimtab/job.h"

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
