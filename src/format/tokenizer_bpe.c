#include <stdlib.h>
#include <string.h>

#include "tokenizer_private.h"

void tt_tok_scratch_free(tt_tok_scratch *scratch) {
    free(scratch->nodes);
    free(scratch->symbols);
    free(scratch->heap);
    *scratch = (tt_tok_scratch){0};
}

static tt_status add_symbol(tt_tok_scratch *s, int32_t id, tt_error *err) {
    void *data = s->symbols;
    TT_TRY(tt_tok_reserve(&data, &s->symbols_capacity, s->n_symbols + 1, sizeof *s->symbols, err));
    s->symbols = data;
    size_t i = s->n_symbols++;
    s->symbols[i] = (tt_tok_symbol){.id = id, .prev = i ? i - 1 : SIZE_MAX, .next = SIZE_MAX};
    if (i) s->symbols[i - 1].next = i;
    return TT_OK;
}

/* The character's bytes as "<0xNN>" tokens; *done = false when one of them is missing. */
static tt_status add_bytes(const tt_tok_model *model, const char *bytes, size_t n,
                           tt_tok_scratch *s, bool *done, tt_error *err) {
    *done = false;
    for (size_t i = 0; i < n; i++)
        if (model->bytes[(unsigned char)bytes[i]] < 0) return TT_OK;
    for (size_t i = 0; i < n; i++)
        TT_TRY(add_symbol(s, model->bytes[(unsigned char)bytes[i]], err));
    *done = true;
    return TT_OK;
}

static int32_t char_id(const tt_tok_model *model, uint32_t code, const char *bytes, size_t n) {
    return code < TT_TOK_N_DIRECT ? model->direct[code]
                                  : tt_tok_words_find(&model->words, bytes, n);
}

/* Cuts the word into characters. An unknown one becomes its bytes, or the unknown token: held back
 * until the next known character, so that a run can be fused (bytes overtake it, as in HF). */
static tt_status add_characters(const tt_tok_model *model, const char *word, size_t n,
                                tt_tok_scratch *s, tt_error *err) {
    bool unknown = false, done;
    uint32_t code;
    for (size_t i = 0, length; i < n; i += length) {
        length = (size_t)tt_tok_utf8_next(word + i, n - i, &code);
        int32_t id = char_id(model, code, word + i, length);
        if (id >= 0) {
            if (unknown) TT_TRY(add_symbol(s, model->unk_id, err));
            unknown = false;
            TT_TRY(add_symbol(s, id, err));
            continue;
        }
        if (model->byte_fallback) {
            TT_TRY(add_bytes(model, word + i, length, s, &done, err));
            if (done) continue;
        }
        if (!model->unk_token) continue; /* dropped, as in HF */
        if (model->unk_id < 0)
            return tt_fail(err, TT_ERR_FORMAT,
                           "character U+%04X is unknown and model.unk_token \"%s\" is not in the "
                           "vocabulary",
                           code, model->unk_token);
        if (unknown && !model->fuse_unk) TT_TRY(add_symbol(s, model->unk_id, err));
        unknown = true;
    }
    return unknown ? add_symbol(s, model->unk_id, err) : TT_OK;
}

static bool comes_first(const tt_tok_candidate *a, const tt_tok_candidate *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->position < b->position;
}

/* Pushes the merge of the symbol at position with the one after it, if there is one. */
static tt_status push_candidate(const tt_tok_model *model, tt_tok_scratch *s, size_t position,
                                tt_error *err) {
    size_t next = s->symbols[position].next;
    if (next == SIZE_MAX) return TT_OK;
    const tt_tok_merge *merge =
        tt_tok_merge_find(model, s->symbols[position].id, s->symbols[next].id);
    if (!merge) return TT_OK;
    void *data = s->heap;
    TT_TRY(tt_tok_reserve(&data, &s->heap_capacity, s->n_heap + 1, sizeof *s->heap, err));
    s->heap = data;
    tt_tok_candidate added = {position, merge->rank, merge->id};
    size_t i = s->n_heap++;
    for (; i > 0 && comes_first(&added, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = added;
    return TT_OK;
}

static tt_tok_candidate pop_candidate(tt_tok_scratch *s) {
    tt_tok_candidate top = s->heap[0], moved = s->heap[--s->n_heap];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < s->n_heap; i = child) {
        if (child + 1 < s->n_heap && comes_first(&s->heap[child + 1], &s->heap[child])) child++;
        if (!comes_first(&s->heap[child], &moved)) break;
        s->heap[i] = s->heap[child];
    }
    if (s->n_heap) s->heap[i] = moved;
    return top;
}

/* Best merge first (lowest rank, then leftmost). A candidate is stale when its left side is gone
 * or its pair no longer merges to the same token; a pair that changed but still gives that token
 * is taken at the old rank, as in HF. */
static tt_status merge_all(const tt_tok_model *model, tt_tok_scratch *s, tt_error *err) {
    s->n_heap = 0;
    for (size_t i = 0; i + 1 < s->n_symbols; i++) TT_TRY(push_candidate(model, s, i, err));
    while (s->n_heap > 0) {
        tt_tok_candidate best = pop_candidate(s);
        tt_tok_symbol *left = &s->symbols[best.position];
        if (left->gone || left->next == SIZE_MAX) continue;
        tt_tok_symbol *right = &s->symbols[left->next];
        const tt_tok_merge *merge = tt_tok_merge_find(model, left->id, right->id);
        if (!merge || merge->id != best.id) continue;
        left->id = best.id;
        left->next = right->next;
        right->gone = true;
        if (left->next != SIZE_MAX) s->symbols[left->next].prev = best.position;
        if (left->prev != SIZE_MAX) TT_TRY(push_candidate(model, s, left->prev, err));
        TT_TRY(push_candidate(model, s, best.position, err));
    }
    return TT_OK;
}

tt_status tt_tok_bpe(const tt_tok_model *model, const char *word, size_t n, tt_tok_scratch *scratch,
                     tt_ids *out, tt_error *err) {
    if (model->ignore_merges) {
        int32_t id = tt_tok_words_find(&model->words, word, n);
        if (id >= 0) return tt_ids_push(out, id, err);
    }
    scratch->n_symbols = 0;
    TT_TRY(add_characters(model, word, n, scratch, err));
    TT_TRY(merge_all(model, scratch, err));
    for (size_t i = 0; i < scratch->n_symbols; i++)
        if (!scratch->symbols[i].gone) TT_TRY(tt_ids_push(out, scratch->symbols[i].id, err));
    return TT_OK;
}
