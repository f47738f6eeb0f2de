#include "pattern_private.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SOURCE = 4096, MATCH_LIMIT = 10 * 1000 * 1000, DEPTH_LIMIT = 100000, HEAP_KIB = 65536 };

bool tt_pattern_compile(const char *source, tt_pattern *out, char *message, size_t n) {
    *out = (tt_pattern){0};
    if (strlen(source) > MAX_SOURCE) {
        snprintf(message, n, "longer than %d bytes", MAX_SOURCE);
        return false;
    }
    int number;
    PCRE2_SIZE at;
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF | PCRE2_NEVER_BACKSLASH_C;
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)source, PCRE2_ZERO_TERMINATED, options, &number, &at, NULL);
    if (!code) {
        char reason[160] = "";
        pcre2_get_error_message(number, (PCRE2_UCHAR *)reason, sizeof reason);
        snprintf(message, n, "%s at byte %zu", reason, (size_t)at);
        return false;
    }
    out->code = code;
    out->source = strdup(source);
    if (!out->source) {
        snprintf(message, n, "no memory");
        tt_pattern_free(out);
        return false;
    }
    out->group = tt_pattern_n_groups(out) > 0;
    return true;
}

void tt_pattern_free(tt_pattern *pattern) {
    pcre2_code_free(pattern->code);
    free(pattern->source);
    *pattern = (tt_pattern){0};
}

int tt_pattern_n_groups(const tt_pattern *pattern) {
    uint32_t count = 0;
    pcre2_pattern_info(pattern->code, PCRE2_INFO_CAPTURECOUNT, &count);
    return (int)count;
}

/* Where the search for the next match begins; an empty match must not be found again. */
static size_t next_start(const char *text, size_t n, size_t begin, size_t end) {
    if (end > begin) return end;
    size_t next = end + 1;
    while (next < n && ((unsigned char)text[next] & 0xC0) == 0x80) next++;
    return next;
}

static tt_status search(const tt_pattern *pattern, const char *text, size_t n,
                        pcre2_match_data *data, pcre2_match_context *context, bool *found,
                        size_t *begin, size_t *end, tt_error *err) {
    size_t start = 0;
    int n_matches = 0;
    while (start <= n) {
        int rc = pcre2_match(pattern->code, (PCRE2_SPTR)text, n, start, 0, data, context);
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc < 0) {
            char reason[160] = "";
            pcre2_get_error_message(rc, (PCRE2_UCHAR *)reason, sizeof reason);
            return tt_fail(err, rc == PCRE2_ERROR_NOMEMORY ? TT_ERR_MEMORY : TT_ERR_FORMAT,
                           "pattern \"%.200s\": %s", pattern->source, reason);
        }
        const PCRE2_SIZE *at = pcre2_get_ovector_pointer(data);
        int group = pattern->group;
        *found = at[2 * group] != PCRE2_UNSET && at[2 * group + 1] >= at[2 * group];
        *begin = *found ? at[2 * group] : 0;
        *end = *found ? at[2 * group + 1] : 0;
        n_matches++;
        if (pattern->which == TT_WHICH_FIRST || (pattern->which == TT_WHICH_ONLY && n_matches > 1))
            break;
        start = next_start(text, n, at[0] < at[1] ? at[0] : at[1], at[1]);
    }
    if (pattern->which == TT_WHICH_ONLY && n_matches != 1) *found = false;
    return TT_OK;
}

tt_status tt_pattern_find(const tt_pattern *pattern, const char *text, size_t n, bool *found,
                          size_t *begin, size_t *end, tt_error *err) {
    *found = false;
    *begin = *end = 0;
    pcre2_match_data *data = pcre2_match_data_create_from_pattern(pattern->code, NULL);
    pcre2_match_context *context = pcre2_match_context_create(NULL);
    tt_status status;
    if (data && context) {
        pcre2_set_match_limit(context, MATCH_LIMIT);
        pcre2_set_depth_limit(context, DEPTH_LIMIT);
        pcre2_set_heap_limit(context, HEAP_KIB);
        status = search(pattern, text, n, data, context, found, begin, end, err);
    } else {
        status = tt_fail(err, TT_ERR_MEMORY, "no memory to match a pattern");
    }
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
    return status;
}
