/* Values of config.json, checked. */
#include <stdio.h>

#include "json_private.h"
#include "spec_private.h"

json_t *tt_spec_find(const tt_spec_keys *from, const char *key) {
    json_t *value = json_object_get(from->object, key);
    return json_is_null(value) ? NULL : value;
}

tt_status tt_spec_fail(const tt_spec_keys *from, const char *key, const char *expected,
                       tt_error *err) {
    char shown[TT_JSON_SHOWN_BYTES];
    return tt_fail(err, TT_ERR_FORMAT, "%s: %s%s: found %s, expected %s", from->path, from->prefix,
                   key, tt_json_shown_value(json_object_get(from->object, key), shown), expected);
}

tt_status tt_spec_read_count(const tt_spec_keys *from, const char *key, int max, int fallback,
                             int *out, tt_error *err) {
    const json_t *value = tt_spec_find(from, key);
    if (!value && fallback != TT_SPEC_REQUIRED) {
        *out = fallback;
        return TT_OK;
    }
    if (!json_is_integer(value) || json_integer_value(value) < 1 ||
        json_integer_value(value) > max) {
        char expected[64];
        snprintf(expected, sizeof expected, "a whole number from 1 to %d", max);
        return tt_spec_fail(from, key, expected, err);
    }
    *out = (int)json_integer_value(value);
    return TT_OK;
}

tt_status tt_spec_read_number(const tt_spec_keys *from, const char *key, bool required, double min,
                              double max, double *out, tt_error *err) {
    const json_t *value = tt_spec_find(from, key);
    if (!value && !required) return TT_OK;
    double number = json_number_value(value);
    if (!json_is_number(value) || !(number >= min && number <= max)) {
        char expected[64];
        snprintf(expected, sizeof expected, "a number from %g to %g", min, max);
        return tt_spec_fail(from, key, expected, err);
    }
    *out = number;
    return TT_OK;
}

tt_status tt_spec_read_bool(const tt_spec_keys *from, const char *key, bool *out, tt_error *err) {
    const json_t *value = tt_spec_find(from, key);
    if (!value) return TT_OK;
    if (!json_is_boolean(value)) return tt_spec_fail(from, key, "true or false", err);
    *out = json_is_true(value);
    return TT_OK;
}

bool tt_spec_is_neutral(const json_t *value, double neutral) {
    if (!value || json_is_null(value) || json_is_false(value)) return true;
    if (json_is_number(value)) return json_number_value(value) == neutral;
    return (json_is_object(value) && json_object_size(value) == 0) ||
           (json_is_array(value) && json_array_size(value) == 0);
}
