#include <stdlib.h>
#include <string.h>
#include <unicode/uchar.h>

#include "tokenizer_private.h"

/* SentencePiece's compiled normalization rules, as its models carry them:
 *
 *     u32 n | n bytes: u32 units of a double-array trie | texts, each ended by a NUL byte
 *
 * (little-endian). A unit of the trie: bits 0-7 the byte that leads here, bit 8 "a rule ends here",
 * bit 9 "the offset counts in 256", bits 10-30 the offset to the children; of a rule's end: bits
 * 0-30 where its text starts, bit 31 set. A child stands at position ^ offset ^ byte, the end of a
 * rule at position ^ offset. Nothing in the file keeps these within the array: every step is
 * checked, and a walk takes one byte of the text per step, so it cannot run in circles. */
struct tt_tok_charsmap {
    unsigned char *bytes; /* the decoded file, owned */
    size_t n_units;
    const unsigned char *units;
    const char *texts;
    size_t n_texts;
};

/* --- Open ------------------------------------------------------------------------------------- */

static int base64_value(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Canonical base64 with padding, as HF's reader demands it. Returns bytes written, SIZE_MAX: bad.
 */
static size_t decode_base64(const char *text, size_t n, unsigned char *out) {
    size_t done = 0;
    if (n % 4) return SIZE_MAX;
    for (size_t i = 0; i < n; i += 4) {
        int value[4], n_bytes = 3;
        for (int k = 0; k < 4; k++) value[k] = base64_value(text[i + (size_t)k]);
        if (i + 4 == n && text[i + 3] == '=') {
            value[3] = 0, n_bytes = 2;
            if (text[i + 2] == '=') value[2] = 0, n_bytes = 1;
        }
        if (value[0] < 0 || value[1] < 0 || value[2] < 0 || value[3] < 0) return SIZE_MAX;
        unsigned word = (unsigned)value[0] << 18 | (unsigned)value[1] << 12 |
                        (unsigned)value[2] << 6 | (unsigned)value[3];
        if (n_bytes < 3 && word & (n_bytes == 2 ? 0xFFu : 0xFFFFu)) return SIZE_MAX;
        for (int k = 0; k < n_bytes; k++) out[done++] = (unsigned char)(word >> (16 - 8 * k));
    }
    return done;
}

static uint32_t read_u32(const unsigned char *bytes) {
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
           (uint32_t)bytes[3] << 24;
}

static tt_status divide(tt_tok_charsmap *map, size_t n, const char *at, tt_error *err) {
    uint32_t n_trie = n >= 4 ? read_u32(map->bytes) : 0;
    if (n < 4 || n_trie < 4 || n_trie % 4 || n_trie > n - 4)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s.precompiled_charsmap: %zu bytes whose trie has %lu, expected a multiple "
                       "of 4 within them",
                       at, n, (unsigned long)n_trie);
    map->units = map->bytes + 4;
    map->n_units = n_trie / 4;
    map->texts = (const char *)map->units + n_trie;
    map->n_texts = n - 4 - n_trie;
    tt_status status = tt_tok_utf8_check(map->texts, map->n_texts, err);
    if (status != TT_OK) (void)tt_error_prefix(err, "%s.precompiled_charsmap: texts", at);
    return status;
}

tt_status tt_tok_charsmap_open(const char *base64, const char *at, tt_tok_charsmap **out,
                               tt_error *err) {
    size_t n_text = strlen(base64);
    tt_tok_charsmap *map = calloc(1, sizeof *map);
    if (map) map->bytes = malloc(n_text / 4 * 3 + 1);
    if (!map || !map->bytes) {
        tt_tok_charsmap_close(map);
        return tt_fail(err, TT_ERR_MEMORY, "%s.precompiled_charsmap: no memory", at);
    }
    size_t n = decode_base64(base64, n_text, map->bytes);
    tt_status status = TT_OK;
    if (n == SIZE_MAX)
        status = tt_fail(err, TT_ERR_FORMAT, "%s.precompiled_charsmap: not valid base64", at);
    if (status == TT_OK) status = divide(map, n, at, err);
    if (status == TT_OK)
        *out = map;
    else
        tt_tok_charsmap_close(map);
    return status;
}

void tt_tok_charsmap_close(tt_tok_charsmap *map) {
    if (!map) return;
    free(map->bytes);
    free(map);
}

/* --- One rule --------------------------------------------------------------------------------- */

/* The children of the unit at `position` stand at the result ^ byte. */
static size_t children(size_t position, uint32_t unit) {
    return position ^ ((size_t)(unit >> 10) << (unit >> 9 & 1 ? 8 : 0));
}

static tt_status broken(tt_error *err) {
    return tt_fail(err, TT_ERR_FORMAT,
                   "normalizer: precompiled_charsmap: a rule leads out of its table");
}

/* The text of the rule that ends in `unit`. */
static tt_status text_at(const tt_tok_charsmap *map, uint32_t unit, const char **text, size_t *n,
                         tt_error *err) {
    size_t start = unit & 0x7FFFFFFFu;
    if (start > map->n_texts) return broken(err);
    if (start < map->n_texts && ((unsigned char)map->texts[start] & 0xC0) == 0x80)
        return broken(err); /* inside a character */
    *text = map->texts + start;
    *n = 0;
    while (start + *n < map->n_texts && (*text)[*n]) ++*n;
    return TT_OK;
}

/* The shortest rule that chunk begins with (HF's choice, whatever else would match); *text = NULL:
 * none. */
static tt_status find_rule(const tt_tok_charsmap *map, const char *chunk, size_t n,
                           const char **text, size_t *n_text, tt_error *err) {
    size_t position = children(0, read_u32(map->units));
    *text = NULL;
    for (size_t i = 0; i < n && chunk[i]; i++) {
        unsigned char byte = (unsigned char)chunk[i];
        position ^= byte;
        if (position >= map->n_units) return broken(err);
        uint32_t unit = read_u32(map->units + 4 * position);
        if ((unit & 0x800000FFu) != byte) return TT_OK;
        position = children(position, unit);
        if (!(unit >> 8 & 1)) continue;
        if (position >= map->n_units) return broken(err);
        return text_at(map, read_u32(map->units + 4 * position), text, n_text, err);
    }
    return TT_OK;
}

/* --- Normalize -------------------------------------------------------------------------------- */

/* HF notes for every character where it stems from: of a rule's text, each character from one that
 * it replaces, as long as there are some, further ones from the same as the one before. What
 * vanishes is counted with the last character written, and not at all when there is none. `used`
 * follows that count, to tell what "stems from the first character" (n_first). */
typedef struct writer {
    const tt_tok_charsmap *map;
    const char *text;
    size_t n, used;        /* bytes */
    size_t n_first, first; /* of text; of out */
    size_t last;           /* where the last character of out starts */
    bool inserted;         /* that one replaces none */
    tt_text *out;
    tt_error *err;
} writer;

static size_t length_at(const char *s, size_t n) {
    uint32_t code;
    return n ? (size_t)tt_tok_utf8_next(s, n, &code) : 0;
}

static size_t count_characters(const char *s, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i += length_at(s + i, n - i)) count++;
    return count;
}

static void use_one(writer *w) {
    w->used += length_at(w->text + w->used, w->n - w->used);
}

static tt_status put(writer *w, const char *bytes, size_t n, bool inserted) {
    bool first = w->used < w->n_first;
    if (inserted)
        first =
            w->n_first > 0 && (w->used == 0 || tt_tok_utf8_before(w->text, w->used) < w->n_first);
    w->last = w->out->n;
    w->inserted = inserted;
    TT_TRY(tt_text_append(w->out, bytes, n, w->err));
    if (first) w->first = w->out->n;
    if (!inserted) use_one(w);
    return TT_OK;
}

static void drop(writer *w, size_t count) {
    for (size_t i = 0; i < count && w->out->n > 0; i++) {
        /* One that replaced none now stands for what vanished. */
        if (w->inserted && w->first > w->last && w->used >= w->n_first) w->first = w->last;
        w->inserted = false;
        use_one(w);
    }
}

static tt_status put_rule(writer *w, const char *chunk, size_t n, bool *found) {
    const char *text;
    size_t n_text = 0, n_done = 0;
    TT_TRY(find_rule(w->map, chunk, n, &text, &n_text, w->err));
    *found = text != NULL;
    if (!text) return TT_OK;
    size_t n_old = count_characters(chunk, n);
    for (size_t i = 0, length; i < n_text; i += length, n_done++) {
        length = length_at(text + i, n_text - i);
        TT_TRY(put(w, text + i, length, n_done >= n_old));
    }
    if (n_done < n_old) drop(w, n_old - n_done);
    return TT_OK;
}

/* What people see as one character is replaced whole by a rule for its beginning, if it is shorter
 * than six bytes; else each of its characters by itself (HF, bound to SentencePiece's history). */
static tt_status put_cluster(writer *w, const char *cluster, size_t n) {
    bool found = false;
    if (n < 6) TT_TRY(put_rule(w, cluster, n, &found));
    for (size_t i = 0, length; i < n && !found; i += length) {
        bool changed;
        length = length_at(cluster + i, n - i);
        TT_TRY(put_rule(w, cluster + i, length, &changed));
        if (!changed) TT_TRY(put(w, cluster + i, length, false));
    }
    return TT_OK;
}

tt_status tt_tok_charsmap_append(const tt_tok_charsmap *map, const char *bytes, size_t n,
                                 size_t *n_first, tt_text *out, tt_error *err) {
    writer w = {.map = map, .text = bytes, .n = n, .n_first = *n_first, .out = out, .err = err};
    TT_TRY(tt_text_append(out, "", 0, err));
    for (size_t i = 0, length; i < n; i += length) {
        length = tt_tok_cluster(bytes + i, n - i);
        TT_TRY(put_cluster(&w, bytes + i, length));
    }
    *n_first = w.first;
    return TT_OK;
}
