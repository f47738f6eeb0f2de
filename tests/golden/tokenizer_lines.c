#include "tokenizer_lines.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *texts;

bool lines_open(const char *path) {
    texts = json_load_file(path, 0, NULL);
    return texts != NULL;
}

void lines_close(void) {
    json_decref(texts);
    texts = NULL;
}

/* --- Appending; out of memory ends the test -------------------------------------------------- */

static void add(tt_text *out, const char *bytes, size_t n) {
    if (tt_text_append(out, bytes, n, NULL) != TT_OK) abort();
}

static void add_string(tt_text *out, const char *text) {
    add(out, text, strlen(text));
}

static void add_code(tt_text *out, uint32_t code) {
    static const unsigned char lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    char bytes[4];
    int n = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--, code >>= 6) bytes[i] = (char)(0x80 | (code & 0x3F));
    bytes[0] = (char)(lead[n] | code);
    add(out, bytes, (size_t)n);
}

static void repeat(tt_text *out, size_t from, uint64_t n_times) {
    size_t n = out->n - from;
    for (uint64_t i = 1; i < n_times; i++) {
        char *copy = malloc(n + 1);
        if (!copy) abort();
        memcpy(copy, out->bytes + from, n);
        add(out, copy, n);
        free(copy);
    }
}

/* --- Drawing ---------------------------------------------------------------------------------- */

typedef struct draw {
    uint64_t state;
} draw;

static uint64_t below(draw *d, uint64_t n) {
    uint64_t z = d->state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (z ^ (z >> 31)) % n;
}

static json_t *pick(draw *d, const json_t *list) {
    return json_array_get(list, (size_t)below(d, json_array_size(list)));
}

static void add_picked(draw *d, const json_t *list, tt_text *out) {
    const json_t *text = pick(d, list);
    add(out, json_string_value(text), json_string_length(text));
}

static void add_from(draw *d, const char *key, tt_text *out) {
    add_picked(d, json_object_get(texts, key), out);
}

static json_t *script_at(size_t i) {
    return json_array_get(json_object_get(texts, "scripts"), i);
}

static json_t *any_script(draw *d) {
    return pick(d, json_object_get(texts, "scripts"));
}

static void add_word(draw *d, const json_t *script, tt_text *out) {
    if (below(d, 2)) {
        add_picked(d, json_array_get(script, 2), out);
        return;
    }
    for (uint64_t n = 1 + below(d, 7); n > 0; n--) {
        const json_t *range = pick(d, json_array_get(script, 1));
        uint32_t first = (uint32_t)json_integer_value(json_array_get(range, 0));
        uint32_t last = (uint32_t)json_integer_value(json_array_get(range, 1));
        add_code(out, first + (uint32_t)below(d, last - first + 1));
    }
}

static void add_any_character(draw *d, tt_text *out) {
    static const uint32_t limits[] = {0x300, 0x10000, 0x110000};
    uint32_t code = (uint32_t)below(d, limits[below(d, 3)]);
    add_code(out, code >= 0xD800 && code <= 0xDFFF ? '?' : code);
}

static void add_number(draw *d, tt_text *out) {
    static const char *const joints[] = {".", ",", "-"};
    char text[32];
    uint64_t limit = 1;
    for (uint64_t n = 1 + below(d, 9); n > 0; n--) limit *= 10;
    snprintf(text, sizeof text, "%llu", (unsigned long long)below(d, limit));
    add_string(out, text);
    if (below(d, 3)) return;
    add_string(out, joints[below(d, 3)]);
    snprintf(text, sizeof text, "%llu", (unsigned long long)below(d, 1000));
    add_string(out, text);
}

static void add_item(draw *d, const json_t *script, tt_text *out) {
    static const char *const lists[] = {"odd", "emoji", "added", "code"};
    uint64_t kind = below(d, 20);
    size_t from = out->n;
    if (kind < 8) {
        add_word(d, script, out);
    } else if (kind == 8) {
        add_word(d, any_script(d), out);
    } else if (kind < 11) {
        add_word(d, script_at(0), out);
        add_from(d, "ends", out);
    } else if (kind < 13) {
        add_number(d, out);
    } else if (kind < 17) {
        add_from(d, lists[kind - 13], out);
    } else if (kind < 19) {
        if (kind == 18) add_from(d, "odd", out);
        add_any_character(d, out);
    } else {
        add_word(d, script, out);
        repeat(out, from, 1 + below(d, 3));
    }
}

static void add_spaces(draw *d, tt_text *out) {
    size_t from = out->n;
    add_from(d, "spaces", out);
    repeat(out, from, 1 + below(d, 4));
}

static void text_line(draw *d, const json_t *script, tt_text *out) {
    if (below(d, 4) == 0) add_spaces(d, out);
    for (uint64_t n = 1 + below(d, 9); n > 0; n--) {
        add_item(d, script, out);
        uint64_t kind = below(d, 12);
        if (kind < 8)
            add_string(out, " ");
        else if (kind == 9)
            add_spaces(d, out);
        else if (kind == 10)
            add_from(d, "added", out);
    }
}

static void add_cut_word(draw *d, bool head, tt_text *out) {
    tt_text word = {0};
    add_word(d, any_script(d), &word);
    size_t at = (size_t)below(d, word.n);
    if (head)
        add(out, word.bytes, 1 + at);
    else
        add(out, word.bytes + at, word.n - at);
    tt_text_free(&word);
}

static void bytes_line(draw *d, tt_text *out) {
    for (uint64_t n = 1 + below(d, 12); n > 0; n--) {
        uint64_t kind = below(d, 6);
        if (kind < 2) {
            for (uint64_t k = kind ? 1 : 1 + below(d, 4); k > 0; k--) {
                char byte = (char)below(d, kind ? 128 : 256);
                add(out, &byte, 1);
            }
        } else if (kind < 4) {
            add_cut_word(d, kind == 2, out);
        } else if (kind == 4) {
            add_from(d, "added", out);
        } else {
            add_string(out, " ");
        }
    }
}

/* --- What tests ask for ----------------------------------------------------------------------- */

void lines_line(uint64_t number, tt_text *out, tt_text *raw) {
    draw d = {number << 20};
    size_t n_scripts = json_array_size(json_object_get(texts, "scripts"));
    out->n = raw->n = 0;
    add_string(raw, "");
    if (number >= LINES_N_TEXT && number < LINES_N_TEXT + LINES_N_BYTES)
        bytes_line(&d, raw);
    else
        text_line(&d, script_at((size_t)(number % n_scripts)), raw);
    if (tt_text_append_utf8(out, raw->bytes, raw->n, NULL) != TT_OK) abort();
}

void lines_sweep(uint32_t number, tt_text *out) {
    out->n = 0;
    add_string(out, "");
    for (uint32_t code = number * LINES_SWEEP; code < (number + 1) * LINES_SWEEP; code++) {
        if (code >= 0xD800 && code <= 0xDFFF) continue;
        add_string(out, "a");
        add_code(out, code);
        add_string(out, " ");
        add_code(out, code);
    }
}

void lines_long(uint32_t number, tt_text *out) {
    static const struct {
        const char *unit;
        int n_times;
        const char *end;
    } runs[LINES_N_LONG] = {{"a", 100000, ""},       {"ab", 50000, ""},
                            {" ", 100000, ""},       {"\n", 30000, ""},
                            {"\xC3\xA9", 50000, ""}, {"0", 50000, ""},
                            {"the ", 25000, ""},     {"\xF0\x9F\x98\x80", 20000, ""},
                            {"-", 60000, "x"},       {" \n", 30000, "x"}};
    out->n = 0;
    for (int i = 0; i < runs[number].n_times; i++) add_string(out, runs[number].unit);
    add_string(out, runs[number].end);
}

void lines_ids(uint64_t block, int32_t n_ids, tt_ids *out) {
    draw d = {block << 20 | 1};
    out->n = 0;
    for (uint64_t n = below(&d, 24); n > 0; n--)
        if (tt_ids_push(out, (int32_t)below(&d, (uint64_t)n_ids), NULL) != TT_OK) abort();
}

/* --- Hash ------------------------------------------------------------------------------------- */

uint64_t lines_hash(uint64_t h, const void *data, size_t n) {
    const unsigned char *bytes = data;
    for (size_t i = 0; i < n; i++) h = h * 0x9E3779B97F4A7C15u + bytes[i] + 1;
    return h;
}

static uint64_t hash_u32(uint64_t h, uint32_t value) {
    unsigned char bytes[4] = {(unsigned char)value, (unsigned char)(value >> 8),
                              (unsigned char)(value >> 16), (unsigned char)(value >> 24)};
    return lines_hash(h, bytes, 4);
}

uint64_t lines_hash_ids(uint64_t h, const tt_ids *ids) {
    h = hash_u32(h, (uint32_t)ids->n);
    for (size_t i = 0; i < ids->n; i++) h = hash_u32(h, (uint32_t)ids->ids[i]);
    return h;
}

uint64_t lines_hash_text(uint64_t h, const tt_text *text) {
    h = hash_u32(h, (uint32_t)text->n);
    return lines_hash(h, text->bytes, text->n);
}
