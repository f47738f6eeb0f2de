#include <stdlib.h>
#include <string.h>

#include "tokenizer_private.h"

void tt_tok_pieces_free(tt_tok_pieces *pieces) {
    tt_text_free(&pieces->text);
    free(pieces->v);
    *pieces = (tt_tok_pieces){0};
}

tt_status tt_tok_pieces_push(tt_tok_pieces *pieces, const char *bytes, size_t n, size_t n_first,
                             int32_t id, tt_error *err) {
    if (n == 0 && id < 0) return TT_OK;
    void *data = pieces->v;
    TT_TRY(tt_tok_reserve(&data, &pieces->capacity, pieces->n + 1, sizeof *pieces->v, err));
    pieces->v = data;
    pieces->v[pieces->n++] = (tt_tok_piece){pieces->text.n, n, n_first < n ? n_first : n, id};
    return tt_text_append(&pieces->text, bytes, n, err);
}

/* --- The byte-level alphabet ------------------------------------------------------------------ */

/* Printable bytes of Latin-1 stand for themselves; the other 68 follow from U+0100 on. */
static bool stands_for_itself(unsigned byte) {
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xFF && byte != 0xAD);
}

uint32_t tt_tok_byte_to_char(unsigned char byte) {
    if (stands_for_itself(byte)) return byte;
    if (byte <= 0x20) return 0x100u + byte;
    return byte == 0xAD ? 0x143 : 0x121u + (byte - 0x7Fu);
}

int tt_tok_char_to_byte(uint32_t code) {
    if (code < 0x100) return stands_for_itself(code) ? (int)code : -1;
    if (code <= 0x120) return (int)code - 0x100;
    if (code <= 0x142) return (int)code - 0x121 + 0x7F;
    return code == 0x143 ? 0xAD : -1;
}

/* --- Where to cut ----------------------------------------------------------------------------- */

/* Covers text by single characters that `chosen` accepts and what lies between them. */
static tt_status find_characters(bool (*chosen)(uint32_t), const char *text, size_t n,
                                 tt_tok_matches *out, tt_error *err) {
    size_t covered = 0;
    uint32_t code;
    out->n = 0;
    for (size_t i = 0, length; i < n; i += length) {
        length = (size_t)tt_tok_utf8_next(text + i, n - i, &code);
        if (!chosen(code)) continue;
        if (covered < i) TT_TRY(tt_tok_matches_push(out, covered, i, false, err));
        covered = i + length;
        TT_TRY(tt_tok_matches_push(out, i, covered, true, err));
    }
    return covered < n ? tt_tok_matches_push(out, covered, n, false, err) : TT_OK;
}

/* Runs of word characters and runs of others; spaces are the hits (to be removed). */
static tt_status find_words(const char *text, size_t n, tt_tok_matches *out, tt_error *err) {
    uint32_t code;
    int last = -1;
    out->n = 0;
    for (size_t i = 0, length; i < n; i += length) {
        length = (size_t)tt_tok_utf8_next(text + i, n - i, &code);
        int kind = tt_tok_is_space(code) ? 0 : tt_tok_is_word(code) ? 1 : 2;
        if (kind == last)
            out->v[out->n - 1].end = i + length;
        else
            TT_TRY(tt_tok_matches_push(out, i, i + length, kind == 0, err));
        last = kind;
    }
    return TT_OK;
}

/* Joins matches in place as the behavior says; afterwards hit means: drop it. */
static void join_backward(tt_tok_matches *m, tt_tok_behavior behavior) {
    size_t n = 0;
    bool previous = false;
    for (size_t i = 0; i < m->n; i++) {
        bool hit = m->v[i].hit;
        bool join = behavior == TT_TOK_CONTIGUOUS ? hit == previous : hit && !previous;
        if (join && n > 0)
            m->v[n - 1].end = m->v[i].end;
        else
            m->v[n++] = (tt_tok_match){m->v[i].start, m->v[i].end, false};
        previous = hit;
    }
    m->n = n;
}

static void join_with_next(tt_tok_matches *m) {
    size_t n = m->n;
    bool previous = false;
    for (size_t i = m->n; i-- > 0;) {
        bool hit = m->v[i].hit;
        if (hit && !previous && n < m->n)
            m->v[n].start = m->v[i].start;
        else
            m->v[--n] = (tt_tok_match){m->v[i].start, m->v[i].end, false};
        previous = hit;
    }
    if (n > 0) memmove(m->v, m->v + n, (m->n - n) * sizeof *m->v);
    m->n -= n;
}

static void apply_behavior(tt_tok_matches *m, tt_tok_behavior behavior, bool invert) {
    for (size_t i = 0; i < m->n; i++) {
        if (invert) m->v[i].hit = !m->v[i].hit;
        if (behavior == TT_TOK_ISOLATED) m->v[i].hit = false;
    }
    if (behavior == TT_TOK_MERGED_WITH_NEXT)
        join_with_next(m);
    else if (behavior == TT_TOK_CONTIGUOUS || behavior == TT_TOK_MERGED_WITH_PREVIOUS)
        join_backward(m, behavior);
}

static tt_status find_cuts(const tt_tok_step *step, const char *text, size_t n, tt_tok_matches *out,
                           tt_error *err) {
    tt_tok_behavior behavior = step->behavior;
    switch (step->kind) {
    case TT_TOK_DIGITS:
        TT_TRY(find_characters(tt_tok_is_numeric, text, n, out, err));
        break;
    case TT_TOK_PUNCTUATION:
        TT_TRY(find_characters(tt_tok_is_punctuation, text, n, out, err));
        break;
    case TT_TOK_WHITESPACE_SPLIT:
        TT_TRY(find_characters(tt_tok_is_space, text, n, out, err));
        behavior = TT_TOK_REMOVED;
        break;
    case TT_TOK_WHITESPACE:
        TT_TRY(find_words(text, n, out, err));
        behavior = TT_TOK_REMOVED;
        break;
    default:
        TT_TRY(tt_tok_pattern_find(&step->pattern, text, n, out, err));
        if (step->kind == TT_TOK_BYTE_LEVEL) behavior = TT_TOK_ISOLATED;
    }
    apply_behavior(out, behavior, step->invert);
    return TT_OK;
}

/* --- One step over all pieces ----------------------------------------------------------------- */

typedef struct work {
    const tt_tok_step *step;
    tt_tok_matches cuts;
    tt_text text; /* a piece as the step changed it */
    tt_tok_pieces out;
    tt_error *err;
} work;

static size_t first_within(size_t n_first, size_t start) {
    return n_first > start ? n_first - start : 0;
}

static tt_status push_cuts(work *w, const char *text, size_t n_first) {
    for (size_t i = 0; i < w->cuts.n; i++) {
        const tt_tok_match *cut = &w->cuts.v[i];
        if (cut->hit) continue;
        TT_TRY(tt_tok_pieces_push(&w->out, text + cut->start, cut->end - cut->start,
                                  first_within(n_first, cut->start), -1, w->err));
    }
    return TT_OK;
}

/* Pushes bytes[0..n) letter by letter in the byte-level alphabet. */
static tt_status push_mapped(work *w, const char *bytes, size_t n, size_t n_first) {
    char letter[4];
    size_t mapped_first = 0;
    w->text.n = 0;
    for (size_t i = 0; i < n; i++) {
        int length = tt_tok_utf8_put(letter, tt_tok_byte_to_char((unsigned char)bytes[i]));
        TT_TRY(tt_text_append(&w->text, letter, (size_t)length, w->err));
        if (i < n_first) mapped_first = w->text.n;
    }
    return tt_tok_pieces_push(&w->out, w->text.bytes, w->text.n, mapped_first, -1, w->err);
}

static tt_status map_cuts(work *w, const char *bytes, size_t n, size_t n_first) {
    if (!w->step->split) return push_mapped(w, bytes, n, n_first);
    TT_TRY(find_cuts(w->step, bytes, n, &w->cuts, w->err));
    for (size_t i = 0; i < w->cuts.n; i++) {
        const tt_tok_match *cut = &w->cuts.v[i];
        TT_TRY(push_mapped(w, bytes + cut->start, cut->end - cut->start,
                           first_within(n_first, cut->start)));
    }
    return TT_OK;
}

static tt_status byte_level(work *w, const char *bytes, size_t n, size_t n_first) {
    if (!w->step->prefix_space || bytes[0] == ' ') return map_cuts(w, bytes, n, n_first);
    tt_text prefixed = {0};
    tt_status status = tt_text_append(&prefixed, " ", 1, w->err);
    if (status == TT_OK) status = tt_text_append(&prefixed, bytes, n, w->err);
    if (status == TT_OK)
        status = map_cuts(w, prefixed.bytes, prefixed.n, n_first ? n_first + 1 : 0);
    tt_text_free(&prefixed);
    return status;
}

/* Spaces become the replacement, one more is put in front as the scheme says. */
static tt_status metaspace_text(work *w, const char *bytes, size_t n, size_t *n_first) {
    const tt_text *mark = &w->step->content;
    bool marked = bytes[0] == ' ' || (n >= mark->n && !memcmp(bytes, mark->bytes, mark->n));
    bool wanted =
        w->step->prepend == TT_TOK_ALWAYS || (w->step->prepend == TT_TOK_FIRST && *n_first > 0);
    size_t first = 0;
    w->text.n = 0;
    if (wanted && !marked) TT_TRY(tt_text_append(&w->text, mark->bytes, mark->n, w->err));
    for (size_t i = 0, run; i < n; i += run) {
        const char *space = memchr(bytes + i, ' ', n - i);
        bool at_space = space == bytes + i;
        run = at_space ? 1 : space ? (size_t)(space - bytes) - i : n - i;
        if (i < *n_first) first = w->text.n + (at_space ? mark->n : *n_first - i);
        TT_TRY(tt_text_append(&w->text, at_space ? mark->bytes : bytes + i,
                              at_space ? mark->n : run, w->err));
    }
    *n_first = first;
    return TT_OK;
}

static tt_status metaspace(work *w, const char *bytes, size_t n, size_t n_first) {
    TT_TRY(metaspace_text(w, bytes, n, &n_first));
    const tt_text *mark = &w->step->content;
    if (!w->step->split)
        return tt_tok_pieces_push(&w->out, w->text.bytes, w->text.n, n_first, -1, w->err);
    tt_tok_pattern pattern = {.literal = *mark};
    TT_TRY(tt_tok_pattern_find(&pattern, w->text.bytes, w->text.n, &w->cuts, w->err));
    apply_behavior(&w->cuts, TT_TOK_MERGED_WITH_NEXT, false);
    return push_cuts(w, w->text.bytes, n_first);
}

static tt_status step_piece(work *w, const char *bytes, const tt_tok_piece *piece) {
    if (piece->id >= 0)
        return tt_tok_pieces_push(&w->out, bytes, piece->n, piece->n_first, piece->id, w->err);
    if (w->step->kind == TT_TOK_BYTE_LEVEL) return byte_level(w, bytes, piece->n, piece->n_first);
    if (w->step->kind == TT_TOK_METASPACE) return metaspace(w, bytes, piece->n, piece->n_first);
    TT_TRY(find_cuts(w->step, bytes, piece->n, &w->cuts, w->err));
    return push_cuts(w, bytes, piece->n_first);
}

tt_status tt_tok_pre_tokenize(const tt_tok_steps *steps, tt_tok_pieces *pieces, tt_error *err) {
    work w = {.err = err};
    tt_status status = TT_OK;
    for (size_t s = 0; s < steps->n && status == TT_OK; s++) {
        w.step = &steps->v[s];
        w.out.n = w.out.text.n = 0;
        for (size_t i = 0; i < pieces->n && status == TT_OK; i++)
            status = step_piece(&w, pieces->text.bytes + pieces->v[i].start, &pieces->v[i]);
        tt_tok_pieces swapped = *pieces;
        *pieces = w.out;
        w.out = swapped;
    }
    free(w.cuts.v);
    tt_text_free(&w.text);
    tt_tok_pieces_free(&w.out);
    return status;
}
