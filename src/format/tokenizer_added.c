#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json_private.h"
#include "tokenizer_private.h"

static tt_status read_token(const json_t *object, const char *at, tt_tok_added *out,
                            tt_error *err) {
    const char *content;
    TT_TRY(tt_tok_json_text(object, at, "content", &content, err));
    TT_TRY(tt_text_append(&out->content, content, strlen(content), err));
    TT_TRY(tt_tok_json_flag(object, at, "single_word", true, &out->single_word, err));
    TT_TRY(tt_tok_json_flag(object, at, "lstrip", true, &out->lstrip, err));
    TT_TRY(tt_tok_json_flag(object, at, "rstrip", true, &out->rstrip, err));
    TT_TRY(tt_tok_json_flag(object, at, "normalized", true, &out->normalized, err));
    return tt_tok_json_flag(object, at, "special", true, &out->special, err);
}

void tt_tok_added_token_free(tt_tok_added *token) {
    tt_text_free(&token->content);
    tt_text_free(&token->changed);
}

static tt_tok_added *find(const tt_tok_added_list *list, const char *text, size_t n) {
    for (size_t i = 0; i < list->n; i++)
        if (list->v[i].content.n == n && !memcmp(list->v[i].content.bytes, text, n))
            return &list->v[i];
    return NULL;
}

const tt_tok_added *tt_tok_added_find(const tt_tok_added_list *list, const char *text, size_t n) {
    return find(list, text, n);
}

/* HF does not take ids from the file: a token that the model knows has the model's id, others are
 * counted up from the larger of the vocabulary's size and the last added token. */
static int64_t next_id(const tt_tok_added_list *list, const tt_tok_model *model,
                       const tt_text *content) {
    int64_t id = tt_tok_words_find(&model->words, content->bytes, content->n);
    if (id >= 0) return id;
    id = (int64_t)model->words.n_words;
    for (size_t i = 0; i < list->n; i++)
        if (list->v[i].id >= id) id = (int64_t)list->v[i].id + 1;
    return id;
}

static void note_mention(tt_tok_added *known, const tt_tok_added *mention) {
    known->was_special |= mention->special;
    known->was_normalized |= mention->normalized;
}

static tt_status add_new(tt_tok_added_list *list, const tt_tok_model *model, tt_tok_added *token,
                         const char *at, tt_error *err) {
    enum { MOST = 1 << 16 };
    void *data = list->v;
    int64_t id = next_id(list, model, &token->content);
    if (list->n >= MOST || id >= TT_TOK_MAX_IDS)
        return tt_fail(err, TT_ERR_FORMAT, "%s: more than %d tokens or %d ids", at, MOST,
                       TT_TOK_MAX_IDS);
    TT_TRY(tt_tok_reserve(&data, &list->capacity, list->n + 1, sizeof *list->v, err));
    list->v = data;
    token->id = (int32_t)id;
    list->v[list->n++] = *token;
    *token = (tt_tok_added){0};
    note_mention(&list->v[list->n - 1], &list->v[list->n - 1]);
    return TT_OK;
}

/* A file whose ids are others than HF would give means different ids here and there: refused. */
static tt_status check_id(const tt_tok_added *token, int64_t expected, const char *at,
                          tt_error *err) {
    char shown[TT_JSON_SHOWN_BYTES];
    if (expected < 0 || expected == token->id) return TT_OK;
    return tt_fail(err, TT_ERR_FORMAT, "%s.id: %lld for \"%s\", expected %lld", at,
                   (long long)expected, tt_json_shown(token->content.bytes, shown),
                   (long long)token->id);
}

tt_status tt_tok_added_push(tt_tok_added_list *list, const tt_tok_model *model, tt_tok_added *token,
                            int64_t expected, const char *at, tt_error *err) {
    if (token->content.n == 0) { /* HF ignores a token without text */
        tt_tok_added_token_free(token);
        return TT_OK;
    }
    tt_tok_added *known = find(list, token->content.bytes, token->content.n);
    if (!known) {
        tt_status status = add_new(list, model, token, at, err);
        tt_tok_added_token_free(token);
        return status == TT_OK ? check_id(&list->v[list->n - 1], expected, at, err) : status;
    }
    note_mention(known, token);
    known->single_word = token->single_word;
    known->lstrip = token->lstrip;
    known->rstrip = token->rstrip;
    known->normalized = token->normalized;
    known->special = token->special;
    tt_tok_added_token_free(token);
    return check_id(known, expected, at, err);
}

tt_status tt_tok_added_read(const json_t *array, const tt_tok_model *model, tt_tok_added_list *out,
                            tt_error *err) {
    size_t i;
    const json_t *object;
    if (array && !json_is_null(array) && !json_is_array(array))
        return tt_fail(err, TT_ERR_FORMAT, "added_tokens: found %s, expected an array",
                       tt_tok_json_type(array));
    json_array_foreach(array, i, object) {
        char at[64];
        int64_t id;
        tt_tok_added token = {0};
        snprintf(at, sizeof at, "added_tokens[%zu]", i);
        tt_status status = read_token(object, at, &token, err);
        if (status == TT_OK)
            status = tt_tok_json_number(json_object_get(object, "id"), at, "id", TT_TOK_MAX_IDS - 1,
                                        &id, err);
        if (status == TT_OK)
            status = tt_tok_added_push(out, model, &token, id, at, err);
        else
            tt_tok_added_token_free(&token);
        TT_TRY(status);
    }
    return TT_OK;
}

/* --- Matchers --------------------------------------------------------------------------------- */

static tt_status normalize(tt_tok_added *token, const tt_tok_steps *normalizers, tt_error *err) {
    char shown[TT_JSON_SHOWN_BYTES];
    size_t n_first = 0;
    TT_TRY(tt_text_append(&token->changed, token->content.bytes, token->content.n, err));
    if (!token->was_normalized) return TT_OK;
    TT_TRY(tt_tok_normalize(normalizers, &token->changed, &n_first, err));
    if (token->changed.n > 0) return TT_OK;
    return tt_fail(err, TT_ERR_FORMAT, "added_tokens: \"%s\" normalizes to nothing",
                   tt_json_shown(token->content.bytes, shown));
}

static int compare_matched(const void *a, const void *b) {
    const tt_text *x = ((const tt_tok_match_text *)a)->text;
    const tt_text *y = ((const tt_tok_match_text *)b)->text;
    int order = memcmp(x->bytes, y->bytes, x->n < y->n ? x->n : y->n);
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

static tt_status build_matcher(const tt_tok_added_list *list, bool normalized, tt_tok_matcher *out,
                               tt_error *err) {
    out->v = malloc((list->n + 1) * sizeof *out->v);
    if (!out->v) return tt_fail(err, TT_ERR_MEMORY, "added_tokens: no memory for %zu", list->n);
    for (size_t i = 0; i < list->n; i++) {
        const tt_tok_added *token = &list->v[i];
        if (token->normalized == normalized)
            out->v[out->n++] =
                (tt_tok_match_text){normalized ? &token->changed : &token->content, token};
    }
    qsort(out->v, out->n, sizeof *out->v, compare_matched);
    for (size_t i = 1; i < out->n; i++)
        if (compare_matched(&out->v[i - 1], &out->v[i]) == 0)
            return tt_fail(err, TT_ERR_FORMAT,
                           "added_tokens: \"%s\" and \"%s\" match the same text",
                           out->v[i - 1].token->content.bytes, out->v[i].token->content.bytes);
    return TT_OK;
}

tt_status tt_tok_added_finish(tt_tok_added_list *list, const tt_tok_steps *normalizers,
                              tt_error *err) {
    for (size_t i = 0; i < list->n; i++) TT_TRY(normalize(&list->v[i], normalizers, err));
    TT_TRY(build_matcher(list, false, &list->raw, err));
    return build_matcher(list, true, &list->normalized, err);
}

void tt_tok_added_free(tt_tok_added_list *list) {
    for (size_t i = 0; i < list->n; i++) tt_tok_added_token_free(&list->v[i]);
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
        const tt_text *text = m->v[mid].text;
        bool smaller = text->n <= depth || (unsigned char)text->bytes[depth] < byte;
        if (smaller)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* The longest token that starts at text[0], or NULL. */
static const tt_tok_match_text *longest_at(const tt_tok_matcher *m, const char *text, size_t n) {
    const tt_tok_match_text *found = NULL;
    size_t low = 0, high = m->n;
    for (size_t depth = 0; depth < n && low < high; depth++) {
        unsigned byte = (unsigned char)text[depth];
        low = lower_bound(m, low, high, depth, byte);
        high = lower_bound(m, low, high, depth, byte + 1);
        if (low < high && m->v[low].text->n == depth + 1) found = &m->v[low];
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
        const tt_tok_match_text *match = longest_at(matcher, text + i, n - i);
        if (!match) {
            i++;
            continue;
        }
        const tt_tok_added *token = match->token;
        size_t start = i, end = i + match->text->n;
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
