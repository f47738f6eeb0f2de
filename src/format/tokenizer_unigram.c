#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json_private.h"
#include "tokenizer_private.h"

/* What an unknown character costs below the worst token (SentencePiece and HF). */
static const double unknown_penalty = 10.0;

/* --- Scores ----------------------------------------------------------------------------------- */

/* HF reads numbers with a parser that is not correctly rounded: decimal digits as an integer,
 * divided by a power of ten. Where sums tie, the last bit decides. The digits are those of the
 * shortest text that means x, which is what HF and Python write. */
static double as_hf_reads(double x) {
    static const double tens[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                  1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                  1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    char text[40];
    int n_digits = 1;
    do snprintf(text, sizeof text, "%.*e", n_digits - 1, fabs(x));
    while (strtod(text, NULL) != fabs(x) && ++n_digits <= 17);
    uint64_t digits = 0;
    const char *c = text;
    for (; *c != 'e'; c++)
        if (*c >= '0' && *c <= '9') digits = digits * 10 + (uint64_t)(*c - '0');
    int exponent = atoi(c + 1) - (n_digits - 1);
    if (exponent > 0 || exponent < -22) return x; /* exact, or no score of a real vocabulary */
    double read = (double)digits / tens[-exponent];
    return x < 0 ? -read : read;
}

static tt_status read_entry(const json_t *entry, size_t i, bool exact, const char **text,
                            double *score, tt_error *err) {
    char shown[TT_JSON_SHOWN_BYTES];
    const json_t *number = json_array_get(entry, 1);
    *text = json_string_value(json_array_get(entry, 0));
    if (json_array_size(entry) != 2 || !*text || !json_is_number(number))
        return tt_fail(err, TT_ERR_FORMAT, "model.vocab[%zu]: found %s, expected [text, score]", i,
                       tt_json_shown_value(entry, shown));
    *score = json_number_value(number);
    if (!isfinite(*score))
        return tt_fail(err, TT_ERR_FORMAT, "model.vocab[%zu]: score %g of \"%s\", expected finite",
                       i, *score, tt_json_shown(*text, shown));
    if (!exact) *score = as_hf_reads(*score);
    return TT_OK;
}

/* --- The sorted vocabulary, to search prefixes in ----------------------------------------------
 */

static const char *text_of(const tt_tok_words *words, int32_t id, size_t *n) {
    *n = words->length[id];
    return words->texts.bytes + words->start[id];
}

static int compare_texts(const tt_tok_words *words, int32_t a, int32_t b) {
    size_t n_a, n_b;
    const char *x = text_of(words, a, &n_a), *y = text_of(words, b, &n_b);
    int order = memcmp(x, y, n_a < n_b ? n_a : n_b);
    return order ? order : (n_a > n_b) - (n_a < n_b);
}

/* Heap sort: no context argument in C's qsort, and no quadratic case for hostile files. */
static void sift(const tt_tok_words *words, int32_t *v, size_t i, size_t n) {
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && compare_texts(words, v[child], v[child + 1]) < 0) child++;
        if (compare_texts(words, v[i], v[child]) >= 0) return;
        int32_t moved = v[i];
        v[i] = v[child];
        v[child] = moved;
    }
}

static void sort_ids(const tt_tok_words *words, int32_t *v, size_t n) {
    for (size_t i = n / 2; i-- > 0;) sift(words, v, i, n);
    for (size_t end = n; end-- > 1;) {
        int32_t moved = v[0];
        v[0] = v[end];
        v[end] = moved;
        sift(words, v, 0, end);
    }
}

/* Ids of all texts but the empty one; of a text given twice the id that look-ups give. */
static tt_status build_order(tt_tok_model *model, tt_error *err) {
    const tt_tok_words *words = &model->words;
    size_t n;
    model->sorted = malloc((size_t)words->n_ids * sizeof *model->sorted + 1);
    if (!model->sorted)
        return tt_fail(err, TT_ERR_MEMORY, "model.vocab: no memory for %d tokens", words->n_ids);
    for (int32_t id = 0; id < words->n_ids; id++) {
        const char *text = text_of(words, id, &n);
        if (n > 0 && tt_tok_words_find(words, text, n) == id) model->sorted[model->n_sorted++] = id;
    }
    sort_ids(words, model->sorted, model->n_sorted);
    for (size_t i = 0, byte = 0; byte <= 256; byte++) {
        while (i < model->n_sorted && (unsigned char)*text_of(words, model->sorted[i], &n) < byte)
            i++;
        model->first[byte] = i;
    }
    return TT_OK;
}

static tt_status read_unk_id(const json_t *object, tt_tok_model *out, tt_error *err) {
    const json_t *value = json_object_get(object, "unk_id");
    int64_t id;
    out->unk_id = -1;
    if (!value || json_is_null(value)) return TT_OK;
    TT_TRY(tt_tok_json_number(value, "model", "unk_id", (int64_t)out->words.n_ids - 1, &id, err));
    out->unk_id = (int32_t)id;
    return TT_OK;
}

tt_status tt_tok_unigram_read(const json_t *object, bool exact_scores, tt_tok_model *out,
                              tt_error *err) {
    const json_t *list, *entry;
    const char *text;
    size_t i;
    TT_TRY(tt_tok_json_array(object, "model", "vocab", &list, err));
    size_t n = json_array_size(list);
    if (n > TT_TOK_MAX_IDS)
        return tt_fail(err, TT_ERR_FORMAT, "model.vocab: %zu tokens, expected at most %d", n,
                       TT_TOK_MAX_IDS);
    TT_TRY(tt_tok_words_create(n, (int32_t)n, &out->words, err));
    out->scores = malloc(n * sizeof *out->scores + 1);
    if (!out->scores) return tt_fail(err, TT_ERR_MEMORY, "model.vocab: no memory for %zu", n);
    out->unknown_score = INFINITY;
    json_array_foreach(list, i, entry) {
        TT_TRY(read_entry(entry, i, exact_scores, &text, &out->scores[i], err));
        TT_TRY(tt_tok_words_add(&out->words, text, strlen(text), (int32_t)i, err));
        if (out->scores[i] < out->unknown_score) out->unknown_score = out->scores[i];
    }
    out->unknown_score -= unknown_penalty;
    TT_TRY(read_unk_id(object, out, err));
    return build_order(out, err);
}

/* --- Viterbi ---------------------------------------------------------------------------------- */

/* First of sorted[low..high) whose byte at `depth` is at least `byte`. */
static size_t lower_bound(const tt_tok_model *m, size_t low, size_t high, size_t depth,
                          unsigned byte) {
    while (low < high) {
        size_t n, mid = low + (high - low) / 2;
        const char *text = text_of(&m->words, m->sorted[mid], &n);
        if (n <= depth || (unsigned char)text[depth] < byte)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* A better way to `end`? The first of equal ones stays, as in HF. */
static void offer(tt_tok_node *end, double score, size_t start, int32_t id) {
    if (end->start != SIZE_MAX && !(score > end->score)) return;
    *end = (tt_tok_node){score, start, id};
}

/* Offers every token that starts at text[at]; true when one of them is `single` bytes long. */
static bool offer_tokens(const tt_tok_model *m, const char *text, size_t at, size_t n,
                         size_t single, tt_tok_node *nodes) {
    bool has_single = false;
    unsigned byte = (unsigned char)text[at];
    size_t low = m->first[byte], high = m->first[byte + 1];
    for (size_t depth = 1; low < high; depth++) {
        int32_t id = m->sorted[low];
        if (m->words.length[id] == depth) {
            offer(&nodes[at + depth], m->scores[id] + nodes[at].score, at, id);
            has_single |= depth == single;
        }
        if (at + depth >= n) break;
        byte = (unsigned char)text[at + depth];
        low = lower_bound(m, low, high, depth, byte);
        high = lower_bound(m, low, high, depth, byte + 1);
    }
    return has_single;
}

static tt_status find_path(const tt_tok_model *m, const char *text, size_t n, tt_tok_node *nodes,
                           tt_error *err) {
    uint32_t code;
    for (size_t i = 0; i <= n; i++) nodes[i] = (tt_tok_node){0.0, SIZE_MAX, 0};
    for (size_t at = 0, length; at < n; at += length) {
        length = (size_t)tt_tok_utf8_next(text + at, n - at, &code);
        if (offer_tokens(m, text, at, n, length, nodes)) continue;
        tt_tok_node *end = &nodes[at + length];
        double score = m->unknown_score + nodes[at].score;
        if (end->start != SIZE_MAX && !(score > end->score)) continue;
        if (m->unk_id < 0)
            return tt_fail(err, TT_ERR_FORMAT,
                           "character U+%04X is unknown and model.unk_id is null", code);
        offer(end, score, at, m->unk_id);
    }
    return TT_OK;
}

/* One stretch of text: a token, its bytes, or the unknown token. Looked up by its text even where
 * the path knows its id: fused unknown characters can be a token together, as in HF. */
static tt_status push_stretch(const tt_tok_model *m, const char *text, size_t n, tt_ids *out,
                              tt_error *err) {
    int32_t id = tt_tok_words_find(&m->words, text, n);
    if (id >= 0) return tt_ids_push(out, id, err);
    size_t known = 0;
    while (m->byte_fallback && known < n && m->bytes[(unsigned char)text[known]] >= 0) known++;
    if (known < n) return tt_ids_push(out, m->unk_id, err);
    for (size_t i = 0; i < n; i++) TT_TRY(tt_ids_push(out, m->bytes[(unsigned char)text[i]], err));
    return TT_OK;
}

/* The path stands in `nodes` from its end; `start` is turned around to lead from the front. */
static tt_status push_path(const tt_tok_model *m, const char *text, size_t n, tt_tok_node *nodes,
                           tt_ids *out, tt_error *err) {
    for (size_t end = n, next = SIZE_MAX; end > 0;) {
        size_t start = nodes[end].start;
        nodes[end].start = next;
        next = end;
        end = start;
        if (end == 0) nodes[0].start = next;
    }
    for (size_t at = 0; at < n;) {
        size_t end = nodes[at].start;
        while (m->unk_id >= 0 && nodes[end].id == m->unk_id && end < n &&
               nodes[nodes[end].start].id == m->unk_id)
            end = nodes[end].start;
        TT_TRY(push_stretch(m, text + at, end - at, out, err));
        at = end;
    }
    return TT_OK;
}

tt_status tt_tok_unigram(const tt_tok_model *model, const char *word, size_t n,
                         tt_tok_scratch *scratch, tt_ids *out, tt_error *err) {
    void *data = scratch->nodes;
    TT_TRY(tt_tok_reserve(&data, &scratch->nodes_capacity, n + 1, sizeof *scratch->nodes, err));
    scratch->nodes = data;
    TT_TRY(find_path(model, word, n, scratch->nodes, err));
    return push_path(model, word, n, scratch->nodes, out, err);
}
