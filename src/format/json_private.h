/* json: bounded JSON for the readers of this floor (private to src/format).
 *
 * Foreign JSON is parsed with duplicate keys rejected, a limit on its bytes set by the caller, and
 * a limit on its values, so that a small file cannot become a large tree in memory. jansson itself
 * limits the depth (JSON_PARSER_MAX_DEPTH) and rejects invalid UTF-8, NUL bytes, NaN and Infinity.
 * No json_t leaves the floor. */
#ifndef TRIMTAB_FORMAT_JSON_PRIVATE_H
#define TRIMTAB_FORMAT_JSON_PRIVATE_H

#include <jansson.h>
#include <stddef.h>

#include "trimtab/status.h"

enum {
    TT_JSON_MAX_VALUES = 1 << 21, /* a tensor takes seven: room for 300 000 in one file */
    TT_JSON_SHOWN_BYTES = 96
};

/* Parses text[0..n) into an object (released by json_decref). path names it in errors.
 * Errors: ERR_FORMAT (path:line: reason). */
tt_status tt_json_parse_object(const char *path, const char *text, size_t n, json_t **out,
                               tt_error *err) TT_MUST_CHECK;

/* As above for a file of at most max_bytes. Errors: also ERR_MISSING, ERR_IO, ERR_MEMORY. */
tt_status tt_json_read_object(const char *path, size_t max_bytes, json_t **out,
                              tt_error *err) TT_MUST_CHECK;

/* As above, every number a real one: for files whose integers may be larger than 64 bits, such as
 * the model_max_length of 10^30 that transformers writes. */
tt_status tt_json_read_object_of_reals(const char *path, size_t max_bytes, json_t **out,
                                       tt_error *err) TT_MUST_CHECK;

/* Foreign text for an error message: cut to the buffer, control bytes as '?'. Returns shown. */
const char *tt_json_shown(const char *text, char shown[TT_JSON_SHOWN_BYTES]);

/* A foreign value for an error message: compact JSON, cut and cleaned likewise; "nothing" for NULL.
 */
const char *tt_json_shown_value(const json_t *value, char shown[TT_JSON_SHOWN_BYTES]);

#endif
