#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json_private.h"
#include "tokenizer_private.h"

static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 32)) * 0x9E3779B97F4A7C15u;
    return x ^ (x >> 29);
}

static uint64_t hash_text(const char *text, size_t n) {
    uint64_t h = 0xCBF29CE484222325u ^ n;
    for (; n >= 8; text += 8, n -= 8) {
        uint64_t word;
        memcpy(&word, text, 8);
        h = mix(h ^ word);
    }
    uint64_t rest = 0;
    memcpy(&rest, text, n);
    return mix(h ^ rest);
}

/* Power of two that leaves at least half of the slots free. */
static size_t slots_for(size_t n) {
    size_t slots = 16;
    while (slots < 2 * n) slots *= 2;
    return slots;
}

static bool word_equals(const tt_tok_words *words, int32_t id, const char *text, size_t n) {
    return words->length[id] == n && !memcmp(words->texts.bytes + words->start[id], text, n);
}

int32_t tt_tok_words_find(const tt_tok_words *words, const char *text, size_t n) {
    if (words->n_slots == 0) return -1;
    size_t mask = words->n_slots - 1, slot = hash_text(text, n) & mask;
    for (; words->slots[slot] >= 0; slot = (slot + 1) & mask)
        if (word_equals(words, words->slots[slot], text, n)) return words->slots[slot];
    return -1;
}

tt_status tt_tok_words_add(tt_tok_words *words, const char *text, size_t n, int32_t id,
                           tt_error *err) {
    if (words->start[id] != SIZE_MAX)
        return tt_fail(err, TT_ERR_FORMAT, "model.vocab: id %d names \"%.*s\" and \"%s\"", id,
                       (int)(words->length[id] < 64 ? words->length[id] : 64),
                       words->texts.bytes + words->start[id], text);
    words->start[id] = words->texts.n;
    words->length[id] = n;
    TT_TRY(tt_text_append(&words->texts, text, n, err));
    size_t mask = words->n_slots - 1, slot = hash_text(text, n) & mask;
    while (words->slots[slot] >= 0 && !word_equals(words, words->slots[slot], text, n))
        slot = (slot + 1) & mask;
    words->slots[slot] = id;
    return TT_OK;
}

tt_status tt_tok_words_create(size_t n_words, int32_t n_ids, tt_tok_words *out, tt_error *err) {
    out->n_words = n_words;
    out->n_ids = n_ids;
    out->n_slots = slots_for(n_words);
    out->start = malloc((size_t)n_ids * sizeof *out->start + 1);
    out->length = malloc((size_t)n_ids * sizeof *out->length + 1);
    out->slots = malloc(out->n_slots * sizeof *out->slots);
    if (!out->start || !out->length || !out->slots)
        return tt_fail(err, TT_ERR_MEMORY, "model.vocab: no memory for %zu tokens", n_words);
    for (int32_t i = 0; i < n_ids; i++) out->start[i] = SIZE_MAX;
    for (size_t i = 0; i < out->n_slots; i++) out->slots[i] = -1;
    return TT_OK;
}

static tt_status read_vocab(const json_t *vocab, tt_tok_words *out, tt_error *err) {
    if (!json_is_object(vocab))
        return tt_fail(err, TT_ERR_FORMAT, "model.vocab: found %s, expected an object",
                       tt_tok_json_type(vocab));
    int64_t id, n_ids = 0;
    void *at;
    json_t *object = (json_t *)vocab; /* jansson's iterators take no const */
    for (at = json_object_iter(object); at; at = json_object_iter_next(object, at)) {
        TT_TRY(tt_tok_json_number(json_object_iter_value(at), "model.vocab",
                                  json_object_iter_key(at), TT_TOK_MAX_IDS - 1, &id, err));
        if (id >= n_ids) n_ids = id + 1;
    }
    TT_TRY(tt_tok_words_create(json_object_size(vocab), (int32_t)n_ids, out, err));
    for (at = json_object_iter(object); at; at = json_object_iter_next(object, at)) {
        const char *text = json_object_iter_key(at);
        id = json_integer_value(json_object_iter_value(at));
        TT_TRY(tt_tok_words_add(out, text, strlen(text), (int32_t)id, err));
    }
    return TT_OK;
}

static size_t merge_slot(const tt_tok_model *model, int32_t left, int32_t right) {
    size_t mask = model->n_merge_slots - 1;
    size_t slot = mix((uint64_t)(uint32_t)left << 32 | (uint32_t)right) & mask;
    while (model->merges[slot].left >= 0 &&
           (model->merges[slot].left != left || model->merges[slot].right != right))
        slot = (slot + 1) & mask;
    return slot;
}

const tt_tok_merge *tt_tok_merge_find(const tt_tok_model *model, int32_t left, int32_t right) {
    const tt_tok_merge *merge = &model->merges[merge_slot(model, left, right)];
    return merge->left >= 0 ? merge : NULL;
}

/* A merge is "a b" or ["a", "b"]. */
static tt_status merge_sides(const json_t *merge, size_t i, const char *side[2], size_t n[2],
                             tt_error *err) {
    if (json_is_array(merge) && json_array_size(merge) == 2) {
        for (int k = 0; k < 2; k++) {
            side[k] = json_string_value(json_array_get(merge, (size_t)k));
            n[k] = side[k] ? strlen(side[k]) : 0;
        }
        if (side[0] && side[1]) return TT_OK;
    }
    char shown[TT_JSON_SHOWN_BYTES];
    const char *text = json_string_value(merge);
    const char *space = text ? strchr(text, ' ') : NULL;
    if (!space || strchr(space + 1, ' '))
        return tt_fail(err, TT_ERR_FORMAT,
                       "model.merges[%zu]: found %s, expected \"left right\" or [left, right]", i,
                       tt_json_shown_value(merge, shown));
    side[0] = text, n[0] = (size_t)(space - text);
    side[1] = space + 1, n[1] = strlen(space + 1);
    return TT_OK;
}

static tt_status token_of(const tt_tok_words *words, size_t i, const char *text, size_t n,
                          int32_t *id, tt_error *err) {
    *id = tt_tok_words_find(words, text, n);
    if (*id >= 0) return TT_OK;
    return tt_fail(err, TT_ERR_FORMAT, "model.merges[%zu]: \"%.*s\" is not in model.vocab", i,
                   (int)(n < 64 ? n : 64), text);
}

static tt_status add_merge(tt_tok_model *model, const json_t *merge, int32_t rank, tt_text *whole,
                           tt_error *err) {
    const char *side[2];
    size_t n[2], i = (size_t)rank;
    int32_t left, right, id;
    TT_TRY(merge_sides(merge, i, side, n, err));
    TT_TRY(token_of(&model->words, i, side[0], n[0], &left, err));
    TT_TRY(token_of(&model->words, i, side[1], n[1], &right, err));
    whole->n = 0;
    TT_TRY(tt_text_append(whole, side[0], n[0], err));
    TT_TRY(tt_text_append(whole, side[1], n[1], err));
    TT_TRY(token_of(&model->words, i, whole->bytes, whole->n, &id, err));
    /* A pair listed twice counts as its last mention, as in HF. */
    model->merges[merge_slot(model, left, right)] = (tt_tok_merge){left, right, rank, id};
    return TT_OK;
}

static tt_status read_merges(const json_t *object, tt_tok_model *out, tt_error *err) {
    const json_t *list, *merge;
    TT_TRY(tt_tok_json_array(object, "model", "merges", &list, err));
    size_t i, n = json_array_size(list);
    int32_t rank = 0;
    if (n > INT32_MAX / 4) return tt_fail(err, TT_ERR_FORMAT, "model.merges: %zu, too many", n);
    out->n_merge_slots = slots_for(n);
    out->merges = malloc(out->n_merge_slots * sizeof *out->merges);
    if (!out->merges) return tt_fail(err, TT_ERR_MEMORY, "model.merges: no memory for %zu", n);
    for (i = 0; i < out->n_merge_slots; i++) out->merges[i].left = -1;
    tt_text whole = {0};
    tt_status status = TT_OK;
    json_array_foreach(list, i, merge) {
        const char *text = json_string_value(merge);
        if (text && !strncmp(text, "#version", 8)) continue; /* the head of a merges.txt */
        status = add_merge(out, merge, rank++, &whole, err);
        if (status != TT_OK) break;
    }
    tt_text_free(&whole);
    return status;
}

/* BPE or Unigram. Old files give no type: there a list is Unigram's (as HF guesses). */
static tt_status read_type(const json_t *object, bool *unigram, tt_error *err) {
    char shown[TT_JSON_SHOWN_BYTES];
    const json_t *type = json_object_get(object, "type");
    const char *name = json_string_value(type);
    *unigram =
        type ? name && !strcmp(name, "Unigram") : json_is_array(json_object_get(object, "vocab"));
    if (!type || *unigram || (name && !strcmp(name, "BPE"))) return TT_OK;
    return tt_fail(err, TT_ERR_FORMAT,
                   "model.type: %s is not supported, expected \"BPE\" or \"Unigram\"",
                   tt_json_shown_value(type, shown));
}

/* Settings that would change the result and are not done here. */
static tt_status refuse_others(const json_t *object, tt_error *err) {
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    char shown[TT_JSON_SHOWN_BYTES];
    const json_t *dropout = json_object_get(object, "dropout");
    if (dropout && !json_is_null(dropout) && json_number_value(dropout) != 0.0)
        return tt_fail(err, TT_ERR_FORMAT, "model.dropout: found %s, expected null",
                       tt_json_shown_value(dropout, shown));
    for (size_t i = 0; i < 2; i++) {
        const json_t *affix = json_object_get(object, affixes[i]);
        bool empty = json_is_string(affix) && json_string_length(affix) == 0;
        if (affix && !json_is_null(affix) && !empty)
            return tt_fail(err, TT_ERR_FORMAT, "model.%s: found %s, expected null", affixes[i],
                           tt_tok_json_type(affix));
    }
    return TT_OK;
}

static tt_status read_unk(const json_t *object, tt_tok_model *out, tt_error *err) {
    const json_t *unk = json_object_get(object, "unk_token");
    out->unk_id = -1;
    if (!unk || json_is_null(unk)) return TT_OK;
    const char *text;
    TT_TRY(tt_tok_json_text(object, "model", "unk_token", &text, err));
    out->unk_token = strdup(text);
    if (!out->unk_token) return tt_fail(err, TT_ERR_MEMORY, "model.unk_token: no memory");
    out->unk_id = tt_tok_words_find(&out->words, text, strlen(text));
    return TT_OK;
}

static void fill_tables(tt_tok_model *model) {
    char text[8];
    for (uint32_t code = 0; code < TT_TOK_N_DIRECT; code++)
        model->direct[code] =
            tt_tok_words_find(&model->words, text, (size_t)tt_tok_utf8_put(text, code));
    for (unsigned byte = 0; byte < 256; byte++) {
        snprintf(text, sizeof text, "<0x%02X>", byte);
        model->bytes[byte] = tt_tok_words_find(&model->words, text, 6);
    }
}

static tt_status read_bpe(const json_t *object, tt_tok_model *out, tt_error *err) {
    TT_TRY(refuse_others(object, err));
    TT_TRY(read_vocab(json_object_get(object, "vocab"), &out->words, err));
    TT_TRY(read_merges(object, out, err));
    TT_TRY(read_unk(object, out, err));
    TT_TRY(tt_tok_json_flag(object, "model", "fuse_unk", false, &out->fuse_unk, err));
    return tt_tok_json_flag(object, "model", "ignore_merges", false, &out->ignore_merges, err);
}

tt_status tt_tok_model_read(const json_t *object, bool exact_scores, tt_tok_model *out,
                            tt_error *err) {
    if (!json_is_object(object))
        return tt_fail(err, TT_ERR_FORMAT, "model: found %s, expected an object",
                       tt_tok_json_type(object));
    TT_TRY(read_type(object, &out->unigram, err));
    if (out->unigram)
        TT_TRY(tt_tok_unigram_read(object, exact_scores, out, err));
    else
        TT_TRY(read_bpe(object, out, err));
    TT_TRY(tt_tok_json_flag(object, "model", "byte_fallback", false, &out->byte_fallback, err));
    fill_tables(out);
    return TT_OK;
}

void tt_tok_model_free(tt_tok_model *model) {
    tt_text_free(&model->words.texts);
    free(model->words.start);
    free(model->words.length);
    free(model->words.slots);
    free(model->merges);
    free(model->unk_token);
    free(model->scores);
    free(model->sorted);
    *model = (tt_tok_model){0};
}
