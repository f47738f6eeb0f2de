#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer_onig.h"
#include "tokenizer_private.h"

/* A hostile pattern or text ends in an error, not in a hang. A run of a million spaces costs the
 * usual patterns a few million steps. */
enum { MATCH_LIMIT = 20000000, HEAP_LIMIT_KIB = 262144, MAX_PATTERN_BYTES = 1 << 20 };

tt_status tt_tok_matches_push(tt_tok_matches *matches, size_t start, size_t end, bool hit,
                              tt_error *err) {
    void *data = matches->v;
    TT_TRY(tt_tok_reserve(&data, &matches->capacity, matches->n + 1, sizeof *matches->v, err));
    matches->v = data;
    matches->v[matches->n++] = (tt_tok_match){start, end, hit};
    return TT_OK;
}

static tt_status compile(const tt_text *translated, tt_tok_pattern *out, tt_error *err) {
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context) return tt_fail(err, TT_ERR_MEMORY, "no memory for a regular expression");
    pcre2_set_newline(context, PCRE2_NEWLINE_LF); /* what . ^ $ see */
    int code;
    PCRE2_SIZE at;
    out->code = pcre2_compile((PCRE2_SPTR)translated->bytes, translated->n,
                              PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &code, &at, context);
    pcre2_compile_context_free(context);
    if (!out->code) {
        PCRE2_UCHAR text[128];
        pcre2_get_error_message(code, text, sizeof text);
        return tt_fail(err, TT_ERR_FORMAT, "regular expression: %s", (const char *)text);
    }
    /* Without a JIT the interpreter runs: same matches. */
    (void)pcre2_jit_compile(out->code, PCRE2_JIT_COMPLETE);
    return TT_OK;
}

tt_status tt_tok_pattern_compile(const char *source, size_t n, tt_tok_pattern *out, tt_error *err) {
    *out = (tt_tok_pattern){0};
    if (n == 0 || n > MAX_PATTERN_BYTES)
        return tt_fail(err, TT_ERR_FORMAT, "regular expression: %zu bytes, expected 1 to %d", n,
                       MAX_PATTERN_BYTES);
    tt_text translated = {0};
    tt_status status = tt_tok_onig_translate(source, n, &translated, err);
    if (status == TT_OK) status = compile(&translated, out, err);
    tt_text_free(&translated);
    return status;
}

void tt_tok_pattern_free(tt_tok_pattern *pattern) {
    tt_text_free(&pattern->literal);
    pcre2_code_free(pattern->code);
    *pattern = (tt_tok_pattern){0};
}

/* Adds a hit and the text before it that nothing matched. */
static tt_status add_hit(tt_tok_matches *out, size_t start, size_t end, tt_error *err) {
    size_t covered = out->n ? out->v[out->n - 1].end : 0;
    if (covered != start) TT_TRY(tt_tok_matches_push(out, covered, start, false, err));
    return tt_tok_matches_push(out, start, end, true, err);
}

static tt_status find_literal(const tt_text *literal, const char *text, size_t n,
                              tt_tok_matches *out, tt_error *err) {
    size_t i = 0;
    while (n - i >= literal->n) {
        const char *at = memchr(text + i, literal->bytes[0], n - i - literal->n + 1);
        if (!at) break;
        i = (size_t)(at - text);
        if (memcmp(at, literal->bytes, literal->n) == 0) {
            TT_TRY(add_hit(out, i, i + literal->n, err));
            i += literal->n;
        } else {
            i++;
        }
    }
    return TT_OK;
}

static int match_at(const pcre2_code *code, const char *text, size_t n, size_t from,
                    pcre2_match_data *data, pcre2_match_context *context) {
    PCRE2_SPTR subject = (PCRE2_SPTR)text;
    int rc = pcre2_match(code, subject, n, from, PCRE2_NO_UTF_CHECK, data, context);
    if (rc != PCRE2_ERROR_JIT_STACKLIMIT) return rc;
    /* The interpreter keeps its state on the heap, within HEAP_LIMIT_KIB. */
    return pcre2_match(code, subject, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data, context);
}

/* As the iterator of Rust's onig: an empty match right after a match is skipped. */
static tt_status find_all(const pcre2_code *code, const char *text, size_t n,
                          pcre2_match_data *data, pcre2_match_context *context, tt_tok_matches *out,
                          tt_error *err) {
    size_t from = 0;
    while (from <= n) {
        int rc = match_at(code, text, n, from, data, context);
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc < 0)
            return tt_fail(err, TT_ERR_FORMAT,
                           "regular expression: gave up at byte %zu of %zu (PCRE2 error %d)", from,
                           n, rc);
        const PCRE2_SIZE *range = pcre2_get_ovector_pointer(data);
        size_t start = range[0], end = range[1];
        if (start == end && out->n && out->v[out->n - 1].hit && out->v[out->n - 1].end == end) {
            uint32_t code_point;
            from += from < n ? (size_t)tt_tok_utf8_next(text + from, n - from, &code_point) : 1;
            continue;
        }
        TT_TRY(add_hit(out, start, end, err));
        from = end;
    }
    return TT_OK;
}

static tt_status find_regex(const tt_tok_pattern *pattern, const char *text, size_t n,
                            tt_tok_matches *out, tt_error *err) {
    pcre2_match_context *context = pcre2_match_context_create(NULL);
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    tt_status status =
        context && data ? TT_OK : tt_fail(err, TT_ERR_MEMORY, "no memory for a regular expression");
    if (status == TT_OK) {
        pcre2_set_match_limit(context, MATCH_LIMIT);
        pcre2_set_heap_limit(context, HEAP_LIMIT_KIB);
        status = find_all(pattern->code, text, n, data, context, out, err);
    }
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    return status;
}

tt_status tt_tok_pattern_find(const tt_tok_pattern *pattern, const char *text, size_t n,
                              tt_tok_matches *out, tt_error *err) {
    out->n = 0;
    if (n == 0) return TT_OK;
    if (pattern->literal.n)
        TT_TRY(find_literal(&pattern->literal, text, n, out, err));
    else
        TT_TRY(find_regex(pattern, text, n, out, err));
    size_t covered = out->n ? out->v[out->n - 1].end : 0;
    return covered < n ? tt_tok_matches_push(out, covered, n, false, err) : TT_OK;
}
