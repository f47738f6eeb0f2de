#include <string.h>

#include "json_private.h"
#include "tokenizer_private.h"

const char *tt_tok_json_type(const json_t *value) {
    if (!value) return "nothing";
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a real number";
    case JSON_TRUE:
        return "true";
    case JSON_FALSE:
        return "false";
    default:
        return "null";
    }
}

tt_status tt_tok_json_text(const json_t *object, const char *at, const char *key, const char **out,
                           tt_error *err) {
    char shown[TT_JSON_SHOWN_BYTES];
    const json_t *value = json_object_get(object, key);
    if (!json_is_string(value))
        return tt_fail(err, TT_ERR_FORMAT, "%s.%s: found %s, expected a string", at, key,
                       tt_json_shown_value(value, shown));
    *out = json_string_value(value);
    return TT_OK;
}

tt_status tt_tok_json_flag(const json_t *object, const char *at, const char *key, bool mandatory,
                           bool *out, tt_error *err) {
    char shown[TT_JSON_SHOWN_BYTES];
    const json_t *value = json_object_get(object, key);
    if (!mandatory && (!value || json_is_null(value))) return TT_OK;
    if (!json_is_boolean(value))
        return tt_fail(err, TT_ERR_FORMAT, "%s.%s: found %s, expected true or false", at, key,
                       tt_json_shown_value(value, shown));
    *out = json_is_true(value);
    return TT_OK;
}

tt_status tt_tok_json_array(const json_t *object, const char *at, const char *key,
                            const json_t **out, tt_error *err) {
    char shown[TT_JSON_SHOWN_BYTES];
    *out = json_object_get(object, key);
    if (!json_is_array(*out))
        return tt_fail(err, TT_ERR_FORMAT, "%s.%s: found %s, expected an array", at, key,
                       tt_json_shown_value(*out, shown));
    return TT_OK;
}

tt_status tt_tok_json_number(const json_t *value, const char *at, const char *key, int64_t most,
                             int64_t *out, tt_error *err) {
    char shown[TT_JSON_SHOWN_BYTES];
    if (!json_is_integer(value))
        return tt_fail(err, TT_ERR_FORMAT, "%s.%s: found %s, expected an integer", at, key,
                       tt_json_shown_value(value, shown));
    json_int_t found = json_integer_value(value);
    if (found < 0 || found > most)
        return tt_fail(err, TT_ERR_FORMAT, "%s.%s: found %lld, expected 0 to %lld", at, key,
                       (long long)found, (long long)most);
    *out = found;
    return TT_OK;
}
