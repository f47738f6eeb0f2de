#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unicode/unorm2.h>
#include <unicode/uset.h>
#include <unicode/ustring.h>

#include "tokenizer_private.h"

/* HF's normalization tables are older than Unicode 12: newer characters are left alone. */
static const UChar unicode_11[] = u"[:age=11.0:]";

/* A filtered normalizer borrows its set: both live and die together. */
typedef struct normalizer {
    UNormalizer2 *filtered;
    USet *set;
} normalizer;

void tt_tok_normalizer_close(void *opened) {
    normalizer *n = opened;
    if (!n) return;
    if (n->filtered) unorm2_close(n->filtered);
    if (n->set) uset_close(n->set);
    free(n);
}

tt_status tt_tok_normalizer_open(tt_tok_kind kind, void **out, tt_error *err) {
    UErrorCode code = U_ZERO_ERROR;
    const UNormalizer2 *whole = kind == TT_TOK_NFC    ? unorm2_getNFCInstance(&code)
                                : kind == TT_TOK_NFD  ? unorm2_getNFDInstance(&code)
                                : kind == TT_TOK_NFKC ? unorm2_getNFKCInstance(&code)
                                                      : unorm2_getNFKDInstance(&code);
    normalizer *opened = calloc(1, sizeof *opened);
    if (!opened) return tt_fail(err, TT_ERR_MEMORY, "no memory for a Unicode normalizer");
    opened->set = uset_openPattern(unicode_11, -1, &code);
    if (U_SUCCESS(code)) {
        uset_freeze(opened->set);
        opened->filtered = unorm2_openFiltered(whole, opened->set, &code);
    }
    if (U_FAILURE(code)) {
        tt_tok_normalizer_close(opened);
        return tt_fail(err, TT_ERR_INTERNAL, "Unicode normalizer: %s", u_errorName(code));
    }
    *out = opened;
    return TT_OK;
}

static tt_status icu_failed(UErrorCode code, tt_error *err) {
    tt_status status = code == U_MEMORY_ALLOCATION_ERROR ? TT_ERR_MEMORY : TT_ERR_INTERNAL;
    tt_fail_at(err, status, __FILE__, __LINE__, "Unicode normalization: %s", u_errorName(code));
    return status;
}

/* Normalizes bytes[0..n) and appends to out. UTF-16 in `units`, at most n long; the result can be
 * 18 times as long (U+FDFA), so its length is asked first. */
static tt_status normalize_units(const UNormalizer2 *form, const UChar *units, int32_t n_units,
                                 tt_text *out, tt_error *err) {
    UErrorCode code = U_ZERO_ERROR;
    int32_t n = unorm2_normalize(form, units, n_units, NULL, 0, &code);
    if (U_FAILURE(code) && code != U_BUFFER_OVERFLOW_ERROR) return icu_failed(code, err);
    code = U_ZERO_ERROR;
    UChar *result = malloc(((size_t)n + 1) * sizeof *result);
    char *bytes = malloc((size_t)n * 3 + 1);
    int32_t n_bytes = 0;
    if (!result || !bytes) code = U_MEMORY_ALLOCATION_ERROR;
    unorm2_normalize(form, units, n_units, result, n + 1, &code);
    size_t room = (size_t)n * 3 + 1;
    u_strToUTF8(bytes, room > INT32_MAX ? INT32_MAX : (int32_t)room, &n_bytes, result, n, &code);
    tt_status status =
        U_FAILURE(code) ? icu_failed(code, err) : tt_text_append(out, bytes, (size_t)n_bytes, err);
    free(result);
    free(bytes);
    return status;
}

static tt_status append_form(const UNormalizer2 *form, const char *bytes, size_t n, tt_text *out,
                             tt_error *err) {
    if (n > INT32_MAX / 64)
        return tt_fail(err, TT_ERR_FORMAT, "text of %zu bytes, expected at most %d to normalize", n,
                       INT32_MAX / 64);
    UErrorCode code = U_ZERO_ERROR;
    int32_t n_units = 0;
    UChar *units = malloc((n + 1) * sizeof *units);
    if (!units) return tt_fail(err, TT_ERR_MEMORY, "no memory to normalize %zu bytes", n);
    u_strFromUTF8(units, (int32_t)n + 1, &n_units, bytes, (int32_t)n, &code);
    tt_status status =
        U_FAILURE(code) ? icu_failed(code, err) : normalize_units(form, units, n_units, out, err);
    free(units);
    return status;
}

static tt_status append_lower(const char *bytes, size_t n, tt_text *out, tt_error *err) {
    uint32_t code;
    for (size_t i = 0; i < n; i += (size_t)tt_tok_utf8_next(bytes + i, n - i, &code)) {
        char lower[8];
        tt_tok_utf8_next(bytes + i, n - i, &code);
        int length = tt_tok_utf8_put(lower, code == 0x130 ? 'i' : tt_tok_lower(code));
        if (code == 0x130) length += tt_tok_utf8_put(lower + length, 0x307);
        TT_TRY(tt_text_append(out, lower, (size_t)length, err));
    }
    return TT_OK;
}

static tt_status append_without_marks(const char *bytes, size_t n, tt_text *out, tt_error *err) {
    uint32_t code;
    for (size_t i = 0, length; i < n; i += length) {
        length = (size_t)tt_tok_utf8_next(bytes + i, n - i, &code);
        if (!tt_tok_is_mark(code)) TT_TRY(tt_text_append(out, bytes + i, length, err));
    }
    return TT_OK;
}

static tt_status append_changed(const tt_tok_step *step, const char *bytes, size_t n, tt_text *out,
                                tt_error *err) {
    if (step->kind == TT_TOK_LOWERCASE) return append_lower(bytes, n, out, err);
    if (step->kind == TT_TOK_STRIP_ACCENTS) return append_without_marks(bytes, n, out, err);
    return append_form(((const normalizer *)step->normalizer)->filtered, bytes, n, out, err);
}

/* Character by character, so what the first character became is known by itself. */
static tt_status change_characters(const tt_tok_step *step, tt_text *text, size_t *n_first,
                                   tt_error *err) {
    tt_text first = {0}, whole = {0};
    tt_status status = append_changed(step, text->bytes, *n_first, &first, err);
    if (status == TT_OK) status = append_changed(step, text->bytes, text->n, &whole, err);
    *n_first = first.n < whole.n ? first.n : whole.n;
    tt_text_free(&first);
    tt_text_free(text);
    *text = whole;
    return status;
}

static tt_status precompiled(const tt_tok_charsmap *map, tt_text *text, size_t *n_first,
                             tt_error *err) {
    tt_text out = {0};
    tt_status status = tt_tok_charsmap_append(map, text->bytes, text->n, n_first, &out, err);
    tt_text_free(text);
    *text = out;
    return status;
}

static tt_status prepend(const tt_text *content, tt_text *text, size_t *n_first, tt_error *err) {
    if (text->n == 0) return TT_OK;
    TT_TRY(tt_text_append(text, content->bytes, content->n, err)); /* makes room */
    memmove(text->bytes + content->n, text->bytes, text->n - content->n);
    memcpy(text->bytes, content->bytes, content->n);
    if (*n_first) *n_first += content->n;
    return TT_OK;
}

static tt_status replace_matches(const tt_tok_matches *matches, const tt_text *content,
                                 const tt_text *text, size_t *n_first, tt_text *out,
                                 tt_error *err) {
    size_t first = 0;
    for (size_t i = 0; i < matches->n; i++) {
        const tt_tok_match *m = &matches->v[i];
        size_t before = out->n;
        TT_TRY(tt_text_append(out, m->hit ? content->bytes : text->bytes + m->start,
                              m->hit ? content->n : m->end - m->start, err));
        /* New text takes the origin of the last byte it replaces. */
        if (m->hit && m->end <= *n_first) first = out->n;
        if (!m->hit && m->start < *n_first)
            first = before + (m->end < *n_first ? m->end : *n_first) - m->start;
    }
    *n_first = first;
    return TT_OK;
}

tt_status tt_tok_replace(const tt_tok_pattern *pattern, const tt_text *content, tt_text *text,
                         size_t *n_first, tt_error *err) {
    tt_tok_matches matches = {0};
    tt_text out = {0};
    tt_status status = tt_tok_pattern_find(pattern, text->bytes, text->n, &matches, err);
    if (status == TT_OK) status = tt_text_append(&out, "", 0, err);
    if (status == TT_OK) status = replace_matches(&matches, content, text, n_first, &out, err);
    free(matches.v);
    tt_text_free(text);
    *text = out;
    return status;
}

static void strip(const tt_tok_step *step, tt_text *text, size_t *n_first) {
    size_t start = 0, end = text->n;
    uint32_t code;
    while (step->left && start < end) {
        int length = tt_tok_utf8_next(text->bytes + start, end - start, &code);
        if (!tt_tok_is_space(code)) break;
        start += (size_t)length;
    }
    while (step->right && end > start) {
        size_t before = tt_tok_utf8_before(text->bytes, end);
        tt_tok_utf8_next(text->bytes + before, end - before, &code);
        if (!tt_tok_is_space(code)) break;
        end = before;
    }
    if (text->n) memmove(text->bytes, text->bytes + start, end - start);
    text->n = end - start;
    *n_first = *n_first > start ? *n_first - start : 0;
    if (*n_first > text->n) *n_first = text->n;
}

tt_status tt_tok_normalize(const tt_tok_steps *steps, tt_text *text, size_t *n_first,
                           tt_error *err) {
    for (size_t i = 0; i < steps->n && text->n > 0; i++) {
        const tt_tok_step *step = &steps->v[i];
        switch (step->kind) {
        case TT_TOK_PREPEND:
            TT_TRY(prepend(&step->content, text, n_first, err));
            break;
        case TT_TOK_REPLACE:
            TT_TRY(tt_tok_replace(&step->pattern, &step->content, text, n_first, err));
            break;
        case TT_TOK_PRECOMPILED:
            TT_TRY(precompiled(step->charsmap, text, n_first, err));
            break;
        case TT_TOK_STRIP:
            strip(step, text, n_first);
            break;
        default:
            TT_TRY(change_characters(step, text, n_first, err));
        }
    }
    return TT_OK;
}
