#include <stdlib.h>
#include <string.h>

#include "tokenizer_private.h"

/* Tokens on their way through the decoders: token i is text[end[i-1]..end[i]). */
typedef struct chain {
    tt_text text;
    size_t *end;
    size_t n, capacity;
    tt_error *err;
} chain;

static void chain_free(chain *c) {
    tt_text_free(&c->text);
    free(c->end);
}

/* Appends bytes to the token being written. */
static tt_status add(chain *c, const char *bytes, size_t n) {
    return tt_text_append(&c->text, bytes, n, c->err);
}

static tt_status end_token(chain *c) {
    void *data = c->end;
    TT_TRY(tt_tok_reserve(&data, &c->capacity, c->n + 1, sizeof *c->end, c->err));
    c->end = data;
    c->end[c->n++] = c->text.n;
    return TT_OK;
}

static const char *token(const chain *c, size_t i, size_t *n) {
    size_t start = i ? c->end[i - 1] : 0;
    *n = c->end[i] - start;
    return c->text.bytes + start;
}

/* The bytes that a token's letters stand for; a token with a foreign letter stands for itself. */
static tt_status byte_level_token(chain *bytes, const char *text, size_t n) {
    size_t before = bytes->text.n;
    uint32_t code;
    for (size_t i = 0; i < n; i += (size_t)tt_tok_utf8_next(text + i, n - i, &code)) {
        tt_tok_utf8_next(text + i, n - i, &code);
        int byte = tt_tok_char_to_byte(code);
        if (byte < 0) {
            bytes->text.n = before;
            return add(bytes, text, n);
        }
        char letter = (char)byte;
        TT_TRY(add(bytes, &letter, 1));
    }
    return TT_OK;
}

static tt_status byte_level(const chain *in, chain *out) {
    chain bytes = {.err = out->err};
    tt_status status = TT_OK;
    for (size_t i = 0, n; i < in->n && status == TT_OK; i++) {
        const char *text = token(in, i, &n);
        status = byte_level_token(&bytes, text, n);
    }
    if (status == TT_OK)
        status = tt_text_append_utf8(&out->text, bytes.text.bytes, bytes.text.n, out->err);
    chain_free(&bytes);
    return status == TT_OK ? end_token(out) : status;
}

static tt_status replace(const tt_tok_step *step, const chain *in, chain *out) {
    for (size_t i = 0, n; i < in->n; i++) {
        const char *text = token(in, i, &n);
        tt_text changed = {0};
        size_t n_first = 0;
        tt_status status = tt_text_append(&changed, text, n, out->err);
        if (status == TT_OK)
            status = tt_tok_replace(&step->pattern, &step->content, &changed, &n_first, out->err);
        if (status == TT_OK) status = add(out, changed.bytes, changed.n);
        tt_text_free(&changed);
        TT_TRY(status);
        TT_TRY(end_token(out));
    }
    return TT_OK;
}

static int hex_value(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte of "<0xNN>", or -1. */
static int fallback_byte(const char *text, size_t n) {
    if (n != 6 || memcmp(text, "<0x", 3) || text[5] != '>') return -1;
    int low = hex_value(text[4]);
    if (text[3] == '+') return low; /* Rust's number parser takes a sign */
    int high = hex_value(text[3]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* A run of bytes is one token when it is valid UTF-8, else one U+FFFD per byte. */
static tt_status flush_bytes(tt_text *run, chain *out) {
    if (run->n == 0) return TT_OK;
    if (tt_tok_utf8_check(run->bytes, run->n, NULL) == TT_OK) {
        TT_TRY(add(out, run->bytes, run->n));
        TT_TRY(end_token(out));
    } else {
        for (size_t i = 0; i < run->n; i++) {
            TT_TRY(add(out, "\xEF\xBF\xBD", 3));
            TT_TRY(end_token(out));
        }
    }
    run->n = 0;
    return TT_OK;
}

static tt_status byte_fallback_into(const chain *in, tt_text *run, chain *out) {
    for (size_t i = 0, n; i < in->n; i++) {
        const char *text = token(in, i, &n);
        int byte = fallback_byte(text, n);
        if (byte >= 0) {
            char letter = (char)byte;
            TT_TRY(tt_text_append(run, &letter, 1, out->err));
            continue;
        }
        TT_TRY(flush_bytes(run, out));
        TT_TRY(add(out, text, n));
        TT_TRY(end_token(out));
    }
    return flush_bytes(run, out);
}

static tt_status byte_fallback(const chain *in, chain *out) {
    tt_text run = {0};
    tt_status status = byte_fallback_into(in, &run, out);
    tt_text_free(&run);
    return status;
}

static tt_status strip_char(const tt_tok_step *step, const chain *in, chain *out) {
    const tt_text *mark = &step->content;
    for (size_t i = 0, n; i < in->n; i++) {
        const char *text = token(in, i, &n);
        size_t start = 0, end = n;
        for (int64_t k = 0; k < step->start && end - start >= mark->n; k++) {
            if (memcmp(text + start, mark->bytes, mark->n)) break;
            start += mark->n;
        }
        for (int64_t k = 0; k < step->stop && end - start >= mark->n; k++) {
            if (memcmp(text + end - mark->n, mark->bytes, mark->n)) break;
            end -= mark->n;
        }
        TT_TRY(add(out, text + start, end - start));
        TT_TRY(end_token(out));
    }
    return TT_OK;
}

/* Replacement characters become spaces; those of the first token vanish, all of them, unless the
 * scheme never put one there (HF). */
static tt_status metaspace(const tt_tok_step *step, const chain *in, chain *out) {
    const tt_text *mark = &step->content;
    for (size_t i = 0, n; i < in->n; i++) {
        const char *text = token(in, i, &n);
        for (size_t k = 0, length; k < n; k += length) {
            uint32_t code;
            length = (size_t)tt_tok_utf8_next(text + k, n - k, &code);
            bool marked = length == mark->n && !memcmp(text + k, mark->bytes, length);
            if (!marked)
                TT_TRY(add(out, text + k, length));
            else if (i > 0 || step->prepend == TT_TOK_NEVER)
                TT_TRY(add(out, " ", 1));
        }
        TT_TRY(end_token(out));
    }
    return TT_OK;
}

static tt_status run_step(const tt_tok_step *step, const chain *in, chain *out) {
    switch (step->kind) {
    case TT_TOK_BYTE_LEVEL:
        return byte_level(in, out);
    case TT_TOK_REPLACE:
        return replace(step, in, out);
    case TT_TOK_BYTE_FALLBACK:
        return byte_fallback(in, out);
    case TT_TOK_STRIP_CHAR:
        return strip_char(step, in, out);
    case TT_TOK_METASPACE:
        return metaspace(step, in, out);
    default: /* Fuse */
        TT_TRY(add(out, in->text.bytes, in->text.n));
        return end_token(out);
    }
}

/* Without a decoder the tokens are joined by spaces. */
static tt_status collect(const tt_tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                         chain *out) {
    bool joined = !t->has_decoder;
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= t->n_ids || !t->entries[ids[i]].text)
            return tt_fail(out->err, TT_ERR_FORMAT,
                           "token %zu: id %d is not in the vocabulary of %d", i, (int)ids[i],
                           (int)t->n_ids);
        const tt_tok_entry *entry = &t->entries[ids[i]];
        if (skip_special && entry->special) continue;
        if (joined && out->n > 0) TT_TRY(add(out, " ", 1));
        TT_TRY(add(out, entry->text, entry->n));
        TT_TRY(end_token(out));
    }
    return TT_OK;
}

static tt_status replace_text(tt_text *text, const char *from, const char *to, tt_error *err) {
    tt_text out = {0};
    size_t n_from = strlen(from), done = 0;
    tt_status status = tt_text_append(&out, "", 0, err);
    for (size_t i = 0; status == TT_OK && i + n_from <= text->n;) {
        if (memcmp(text->bytes + i, from, n_from)) {
            i++;
            continue;
        }
        status = tt_text_append(&out, text->bytes + done, i - done, err);
        if (status == TT_OK) status = tt_text_append(&out, to, strlen(to), err);
        i = done = i + n_from;
    }
    if (status == TT_OK) status = tt_text_append(&out, text->bytes + done, text->n - done, err);
    tt_text_free(text);
    *text = out;
    return status;
}

/* transformers' clean_up_tokenization, one after the other. */
static tt_status clean_up(tt_text *text, tt_error *err) {
    static const char *const rows[][2] = {
        {" .", "."},     {" ?", "?"},   {" !", "!"},   {" ,", ","},     {" ' ", "'"},
        {" n't", "n't"}, {" 'm", "'m"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        TT_TRY(replace_text(text, rows[i][0], rows[i][1], err));
    return TT_OK;
}

tt_status tt_tokenizer_decode(const tt_tokenizer *tokenizer, const int32_t *ids, size_t n,
                              bool skip_special, tt_text *out, tt_error *err) {
    chain now = {.err = err}, next = {.err = err};
    tt_status status = collect(tokenizer, ids, n, skip_special, &now);
    for (size_t i = 0; i < tokenizer->decoders.n && status == TT_OK; i++) {
        next.text.n = next.n = 0;
        status = run_step(&tokenizer->decoders.v[i], &now, &next);
        chain swapped = now;
        now = next;
        next = swapped;
    }
    if (status == TT_OK && tokenizer->clean_up) status = clean_up(&now.text, err);
    if (status == TT_OK) status = tt_text_append(out, now.text.bytes, now.text.n, err);
    chain_free(&now);
    chain_free(&next);
    return status;
}
