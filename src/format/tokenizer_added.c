#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json_private.h"
#include "tokenizer_private.h"

static tt_status read_content(const json_t *object, const char *at, const tt_tok_steps *normalizers,
                              tt_tok_added *out, tt_error *err) {
    const char *content;
    TT_TRY(tt_tok_json_text(object, at, "content", &content, err));
    TT_TRY(tt_text_append(&out->content, content, strlen(content), err));
    TT_TRY(tt_text_append(&out->matched, content, strlen(content), err));
    TT_TRY(tt_tok_json_flag(object, at, "single_word", true, &out->single_word, err));
    TT_TRY(tt_tok_json_flag(object, at, "lstrip", true, &out->lstrip, err));
    TT_TRY(tt_tok_json_flag(object, at, "rstrip", true, &out->rstrip, err));
    TT_TRY(tt_tok_json_flag(object, at, "normalized", true, &out->normalized, err));
    TT_TRY(tt_tok_json_flag(object, at, "special", true, &out->special, err));
    if (!out->normalized) return TT_OK;
    size_t n_first = 0;
    TT_TRY(tt_tok_normalize(normalizers, &out->matched, &n_first, err));
    if (out->matched.n == 0 && out->content.n > 0)
        return tt_fail(err, TT_ERR_FORMAT, "%s.content: \"%s\" normalizes to nothing", at, content);
    return TT_OK;
}

/* HF does not take ids from the file: a token that the model knows has the model's id, others are
 * counted up. A file that says otherwise would mean different ids here and there: refused. */
static tt_status check_id(const json_t *object, const char *at, const tt_tok_model *model,
                          int64_t *next_id, tt_tok_added *out, tt_error *err) {
    int64_t found;
    char shown[TT_JSON_SHOWN_BYTES];
    TT_TRY(tt_tok_json_number(json_object_get(object, "id"), at, "id", TT_TOK_MAX_IDS - 1, &found,
                              err));
    int64_t expected = tt_tok_words_find(&model->words, out->content.bytes, out->content.n);
    if (expected < 0) expected = (*next_id)++;
    if (found != expected)
        return tt_fail(err, TT_ERR_FORMAT, "%s.id: %lld for \"%s\", expected %lld", at,
                       (long long)found, tt_json_shown(out->content.bytes, shown),
                       (long long)expected);
    out->id = (int32_t)found;
    return TT_OK;
}

static int compare_matched(const void *a, const void *b) {
    const tt_text *x = &(*(const tt_tok_added *const *)a)->matched;
    const tt_text *y = &(*(const tt_tok_added *const *)b)->matched;
    int order = memcmp(x->bytes, y->bytes, x->n < y->n ? x->n : y->n);
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

static tt_status build_matcher(const tt_tok_added_list *list, bool normalized, tt_tok_matcher *out,
                               tt_error *err) {
    out->v = malloc((list->n + 1) * sizeof *out->v);
    if (!out->v) return tt_fail(err, TT_ERR_MEMORY, "added_tokens: no memory for %zu", list->n);
    for (size_t i = 0; i < list->n; i++)
        if (list->v[i].normalized == normalized) out->v[out->n++] = &list->v[i];
    qsort(out->v, out->n, sizeof *out->v, compare_matched);
    for (size_t i = 1; i < out->n; i++)
        if (compare_matched(&out->v[i - 1], &out->v[i]) == 0)
            return tt_fail(err, TT_ERR_FORMAT,
                           "added_tokens: \"%s\" and \"%s\" match the same text",
                           out->v[i - 1]->content.bytes, out->v[i]->content.bytes);
    return TT_OK;
}

tt_status tt_tok_added_read(const json_t *array, const tt_tok_model *model,
                            const tt_tok_steps *normalizers, tt_tok_added_list *out,
                            tt_error *err) {
    enum { MOST = 1 << 16 };
    size_t i, n = json_array_size(array);
    const json_t *object;
    int64_t next_id = (int64_t)model->words.n_words;
    if (array && !json_is_null(array) && !json_is_array(array))
        return tt_fail(err, TT_ERR_FORMAT, "added_tokens: found %s, expected an array",
                       tt_tok_json_type(array));
    if (n > MOST)
        return tt_fail(err, TT_ERR_FORMAT, "added_tokens: %zu, expected at most %d", n, MOST);
    out->v = calloc(n + 1, sizeof *out->v);
    if (!out->v) return tt_fail(err, TT_ERR_MEMORY, "added_tokens: no memory for %zu", n);
    json_array_foreach(array, i, object) {
        char at[64];
        snprintf(at, sizeof at, "added_tokens[%zu]", i);
        tt_tok_added *token = &out->v[out->n++];
        TT_TRY(read_content(object, at, normalizers, token, err));
        if (token->content.n > 0) {
            TT_TRY(check_id(object, at, model, &next_id, token, err));
            continue;
        }
        out->n--; /* HF ignores a token without text */
        tt_text_free(&token->content);
        tt_text_free(&token->matched);
    }
    TT_TRY(build_matcher(out, false, &out->raw, err));
    return build_matcher(out, true, &out->normalized, err);
}

void tt_tok_added_free(tt_tok_added_list *list) {
    for (size_t i = 0; i < list->n; i++) {
        tt_text_free(&list->v[i].content);
        tt_text_free(&list->v[i].matched);
    }
    free(list->v);
    free(list->raw.v);
    free(list->normalized.v);
    *list = (tt_tok_added_list){0};
}

/* First of v[low..high) whose byte at `depth` is at least `byte`; texts there share the bytes
 * before and are sorted, shorter ones first. */
static size_t lower_bound(const tt_tok_matcher *m, size_t low, size_t high, size_t depth,
                          unsigned byte) {
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        const tt_text *text = &m->v[mid]->matched;
        bool smaller = text->n <= depth || (unsigned char)text->bytes[depth] < byte;
        if (smaller)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* The longest token that starts at text[0], or NULL. */
static const tt_tok_added *longest_at(const tt_tok_matcher *m, const char *text, size_t n) {
    const tt_tok_added *found = NULL;
    size_t low = 0, high = m->n;
    for (size_t depth = 0; depth < n && low < high; depth++) {
        unsigned byte = (unsigned char)text[depth];
        low = lower_bound(m, low, high, depth, byte);
        high = lower_bound(m, low, high, depth, byte + 1);
        if (low < high && m->v[low]->matched.n == depth + 1) found = m->v[low];
    }
    return found;
}

static bool is_single_word(const char *text, size_t n, size_t start, size_t end) {
    uint32_t code;
    if (start > 0) {
        size_t before = tt_tok_utf8_before(text, start);
        tt_tok_utf8_next(text + before, start - before, &code);
        if (tt_tok_is_word(code)) return false;
    }
    if (end == n) return true;
    tt_tok_utf8_next(text + end, n - end, &code);
    return !tt_tok_is_word(code);
}

/* Widens [*start, *end) over the spaces that the token swallows, left not beyond `covered`. */
static void swallow_spaces(const tt_tok_added *token, const char *text, size_t n, size_t covered,
                           size_t *start, size_t *end) {
    uint32_t code;
    while (token->lstrip && *start > covered) {
        size_t before = tt_tok_utf8_before(text, *start);
        tt_tok_utf8_next(text + before, *start - before, &code);
        if (!tt_tok_is_space(code)) break;
        *start = before;
    }
    while (token->rstrip && *end < n) {
        int length = tt_tok_utf8_next(text + *end, n - *end, &code);
        if (!tt_tok_is_space(code)) break;
        *end += (size_t)length;
    }
}

/* A match that fails single_word is passed over whole. Spaces that rstrip swallowed are still
 * searched, as in HF: a token made of spaces can be found in them again. */
tt_status tt_tok_added_split(const tt_tok_matcher *matcher, const char *text, size_t n,
                             size_t n_first, tt_tok_pieces *out, tt_error *err) {
    size_t covered = 0;
    for (size_t i = 0; i < n && matcher->n > 0;) {
        const tt_tok_added *token = longest_at(matcher, text + i, n - i);
        if (!token) {
            i++;
            continue;
        }
        size_t start = i, end = i + token->matched.n;
        i = end;
        if (token->single_word && !is_single_word(text, n, start, end)) continue;
        swallow_spaces(token, text, n, covered, &start, &end);
        if (covered < start)
            TT_TRY(tt_tok_pieces_push(out, text + covered, start - covered,
                                      n_first > covered ? n_first - covered : 0, -1, err));
        TT_TRY(tt_tok_pieces_push(out, text + start, end - start, 0, token->id, err));
        covered = end;
    }
    if (covered >= n) return TT_OK;
    return tt_tok_pieces_push(out, text + covered, n - covered,
                              n_first > covered ? n_first - covered : 0, -1, err);
}
