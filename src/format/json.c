#include "json_private.h"

#include <stdlib.h>
#include <string.h>

#include "trimtab/file.h"

/* Every value but the first stands behind one of these bytes, so their number bounds the tree.
 * Those inside strings are counted too: the limit is far above what a real file holds. */
static bool has_too_many_values(const char *text, size_t n) {
    size_t n_values = 1;
    for (size_t i = 0; i < n; i++) n_values += text[i] == ',' || text[i] == '[' || text[i] == '{';
    return n_values > TT_JSON_MAX_VALUES;
}

static tt_status parse_object(const char *path, const char *text, size_t n, size_t flags,
                              json_t **out, tt_error *err) {
    *out = NULL;
    if (has_too_many_values(text, n))
        return tt_fail(err, TT_ERR_FORMAT, "%s: JSON of more than %d values", path,
                       TT_JSON_MAX_VALUES);
    json_error_t problem;
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES | flags, &problem);
    if (!root) {
        char shown[TT_JSON_SHOWN_BYTES];
        return tt_fail(err, TT_ERR_FORMAT, "%s:%d: not valid JSON: %s", path, problem.line,
                       tt_json_shown(problem.text, shown));
    }
    if (!json_is_object(root)) {
        json_decref(root);
        return tt_fail(err, TT_ERR_FORMAT, "%s: found another JSON value, expected an object",
                       path);
    }
    *out = root;
    return TT_OK;
}

tt_status tt_json_parse_object(const char *path, const char *text, size_t n, json_t **out,
                               tt_error *err) {
    return parse_object(path, text, n, 0, out, err);
}

static tt_status read_object(const char *path, size_t max_bytes, size_t flags, json_t **out,
                             tt_error *err) {
    *out = NULL;
    char *text;
    size_t n;
    TT_TRY(tt_file_read_all(path, max_bytes, &text, &n, err));
    tt_status status = parse_object(path, text, n, flags, out, err);
    free(text);
    return status;
}

tt_status tt_json_read_object(const char *path, size_t max_bytes, json_t **out, tt_error *err) {
    return read_object(path, max_bytes, 0, out, err);
}

tt_status tt_json_read_object_of_reals(const char *path, size_t max_bytes, json_t **out,
                                       tt_error *err) {
    return read_object(path, max_bytes, JSON_DECODE_INT_AS_REAL, out, err);
}

const char *tt_json_shown(const char *text, char shown[TT_JSON_SHOWN_BYTES]) {
    size_t n = strnlen(text, TT_JSON_SHOWN_BYTES - 1);
    bool cut = text[n] != 0;
    /* A cut must not leave half a character behind. */
    while (cut && n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80) n--;
    for (size_t i = 0; i < n; i++) {
        unsigned char byte = (unsigned char)text[i];
        shown[i] = byte < 0x20 || byte == 0x7F ? '?' : text[i];
    }
    shown[n] = 0;
    return shown;
}

const char *tt_json_shown_value(const json_t *value, char shown[TT_JSON_SHOWN_BYTES]) {
    if (!value) return strcpy(shown, "nothing");
    char buffer[TT_JSON_SHOWN_BYTES * 2] = "";
    /* jansson tells the full length; what fits is written, and only if all fits. */
    size_t n = json_dumpb(value, NULL, 0, JSON_ENCODE_ANY | JSON_COMPACT);
    if (n == 0 || n >= sizeof buffer) {
        static const char *const kinds[] = {"an object", "an array", "a long string", "a number",
                                            "a number",  "true",     "false",         "null"};
        return strcpy(shown, kinds[json_typeof(value)]);
    }
    json_dumpb(value, buffer, sizeof buffer - 1, JSON_ENCODE_ANY | JSON_COMPACT);
    return tt_json_shown(buffer, shown);
}
