/* Tokenizer: token for token what HF tokenizers gave (recorded by record_tokenizer.py, which says
 * how the files are laid out). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include <jansson.h>

#include "trimtab/file.h"
#include "trimtab/tokenizer.h"

#define DATA TT_SOURCE_DIR "/tests/golden/tokenizer/"

enum { MAX_SHOWN = 5, SWEEP_STEP = 4096 };

/* A recorded file, read from front to back. */
typedef struct reader {
    char *bytes;
    size_t n, at;
} reader;

typedef struct check {
    const char *name;
    tt_tokenizer *tokenizer;
    reader record;
    reader lines;
    size_t n_wrong;
} check;

static void open_reader(const char *name, reader *out) {
    char path[256];
    snprintf(path, sizeof path, "%s%s", DATA, name);
    *out = (reader){0};
    assert_int_equal(tt_file_read_all(path, 0, &out->bytes, &out->n, NULL), TT_OK);
}

static const char *take(reader *r, size_t n) {
    assert_true(n <= r->n - r->at);
    r->at += n;
    return r->bytes + r->at - n;
}

static size_t take_number(reader *r) {
    size_t value = 0;
    for (int shift = 0;; shift += 7) {
        unsigned char byte = (unsigned char)*take(r, 1);
        value |= (size_t)(byte & 0x7F) << shift;
        if (byte < 0x80) return value;
    }
}

static void take_ids(reader *r, tt_ids *out) {
    for (size_t n = take_number(r); n > 0; n--)
        assert_int_equal(tt_ids_push(out, (int32_t)take_number(r), NULL), TT_OK);
}

static uint64_t take_hash(reader *r) {
    const unsigned char *bytes = (const unsigned char *)take(r, 8);
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--) value = value << 8 | bytes[i];
    return value;
}

static uint64_t fnv(uint64_t value, const void *data, size_t n) {
    for (size_t i = 0; i < n; i++)
        value = (value ^ ((const unsigned char *)data)[i]) * 0x100000001B3u;
    return value;
}

static const uint64_t fnv_start = 0xCBF29CE484222325u;

static void wrong(check *c, const char *what, size_t number, const char *text, size_t n) {
    if (c->n_wrong++ >= MAX_SHOWN) return;
    print_error("%s, %s %zu:", c->name, what, number);
    for (size_t i = 0; i < n && i < 160; i++) print_error(" %02x", (unsigned char)text[i]);
    print_error("\n");
}

static void compare_ids(check *c, const char *what, size_t number, const tt_text *text,
                        const tt_ids *found, const tt_ids *expected) {
    if (found->n == expected->n &&
        (found->n == 0 || !memcmp(found->ids, expected->ids, found->n * sizeof *found->ids)))
        return;
    wrong(c, what, number, text->bytes, text->n);
    if (c->n_wrong > MAX_SHOWN) return;
    for (size_t i = 0; i < found->n; i++) print_error(" %d", (int)found->ids[i]);
    print_error(" found;");
    for (size_t i = 0; i < expected->n; i++) print_error(" %d", (int)expected->ids[i]);
    print_error(" expected\n");
}

/* Decodes ids both ways and compares with the two recorded texts. */
static void compare_texts(check *c, size_t number, const tt_text *line, const tt_ids *ids) {
    for (int skip = 0; skip < 2; skip++) {
        tt_text text = {0};
        assert_int_equal(
            tt_tokenizer_decode(c->tokenizer, ids->ids, ids->n, skip == 1, &text, NULL), TT_OK);
        bool as_line = *take(&c->record, 1) == 0;
        bool equal = as_line ? text.n == line->n && !memcmp(text.bytes, line->bytes, text.n)
                             : fnv(fnv_start, text.bytes, text.n) == take_hash(&c->record);
        if (!equal) wrong(c, skip ? "decoded, skipped" : "decoded", number, text.bytes, text.n);
        tt_text_free(&text);
    }
}

static void check_line(check *c, size_t number, const char *bytes, size_t n) {
    tt_text text = {0};
    tt_ids plain = {0}, full = {0}, expected = {0}, expected_full = {0}, between = {0};
    assert_int_equal(tt_text_append_utf8(&text, bytes, n, NULL), TT_OK);
    bool valid = text.n == n && !memcmp(text.bytes, bytes, n);
    assert_int_equal(tt_tokenizer_encode(c->tokenizer, bytes, n, false, &plain, NULL),
                     valid ? TT_OK : TT_ERR_FORMAT);
    plain.n = 0;
    assert_int_equal(tt_tokenizer_encode(c->tokenizer, text.bytes, text.n, false, &plain, NULL),
                     TT_OK);
    assert_int_equal(tt_tokenizer_encode(c->tokenizer, text.bytes, text.n, true, &full, NULL),
                     TT_OK);
    take_ids(&c->record, &expected);
    take_ids(&c->record, &expected_full);
    for (size_t i = 0; i < expected.n; i++)
        assert_int_equal(tt_ids_push(&expected_full, expected.ids[i], NULL), TT_OK);
    take_ids(&c->record, &between);
    for (size_t i = 0; i < between.n; i++)
        assert_int_equal(tt_ids_push(&expected_full, between.ids[i], NULL), TT_OK);
    compare_ids(c, "line", number, &text, &plain, &expected);
    compare_ids(c, "line with special tokens", number, &text, &full, &expected_full);
    compare_texts(c, number, &text, &expected_full);
    tt_text_free(&text);
    tt_ids_free(&plain);
    tt_ids_free(&full);
    tt_ids_free(&expected);
    tt_ids_free(&expected_full);
    tt_ids_free(&between);
}

static void check_lines(check *c) {
    size_t step = take_number(&c->record);
    c->lines.at = 0;
    size_t n_lines = take_number(&c->lines);
    for (size_t i = 0; i < n_lines; i++) {
        size_t n = take_number(&c->lines);
        const char *bytes = take(&c->lines, n);
        if (i % step == 0) check_line(c, i, bytes, n);
    }
}

static void check_lists(check *c) {
    const tt_text nothing = {0};
    for (size_t i = 0, n = take_number(&c->record); i < n; i++) {
        tt_ids ids = {0};
        take_ids(&c->record, &ids);
        compare_texts(c, i, &nothing, &ids);
        tt_ids_free(&ids);
    }
}

/* --- Texts that both sides make --------------------------------------------------------------- */

static void repeat(tt_text *out, const char *unit, int n_times) {
    for (int i = 0; i < n_times; i++)
        assert_int_equal(tt_text_append(out, unit, strlen(unit), NULL), TT_OK);
}

/* long_texts() of the recorder: runs without a boundary, where a slow merge would be quadratic. */
static bool long_text(size_t i, tt_text *out) {
    static const struct {
        const char *unit;
        int n_times;
        const char *end;
    } runs[] = {{"a", 100000, ""},       {"ab", 50000, ""},
                {" ", 100000, ""},       {"\n", 30000, ""},
                {"\xC3\xA9", 50000, ""}, {"0", 50000, ""},
                {"the ", 25000, ""},     {"\xF0\x9F\x98\x80", 20000, ""},
                {"-", 60000, "x"},       {" \n", 30000, "x"}};
    if (i >= sizeof runs / sizeof runs[0]) return false;
    repeat(out, runs[i].unit, runs[i].n_times);
    repeat(out, runs[i].end, 1);
    return true;
}

static void append_code(tt_text *out, uint32_t code) {
    char bytes[4];
    int n = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (int i = n - 1; i > 0; i--, code >>= 6) bytes[i] = (char)(0x80 | (code & 0x3F));
    bytes[0] = (char)(lead[n] | code);
    assert_int_equal(tt_text_append(out, bytes, (size_t)n, NULL), TT_OK);
}

/* One of sweep_texts(): every code point from `first` on, after a letter and after a space. */
static void sweep_text(uint32_t first, tt_text *out) {
    for (uint32_t code = first; code < first + SWEEP_STEP; code++) {
        if (code >= 0xD800 && code <= 0xDFFF) continue;
        repeat(out, "a", 1);
        append_code(out, code);
        repeat(out, " ", 1);
        append_code(out, code);
    }
}

static void check_hash(check *c, const char *what, size_t number, const tt_text *text) {
    tt_ids ids = {0};
    assert_int_equal(tt_tokenizer_encode(c->tokenizer, text->bytes, text->n, false, &ids, NULL),
                     TT_OK);
    uint64_t value = fnv_start;
    for (size_t i = 0; i < ids.n; i++) {
        uint32_t id = (uint32_t)ids.ids[i];
        unsigned char bytes[4] = {(unsigned char)id, (unsigned char)(id >> 8),
                                  (unsigned char)(id >> 16), (unsigned char)(id >> 24)};
        value = fnv(value, bytes, 4);
    }
    if (value != take_hash(&c->record)) wrong(c, what, number, text->bytes, 16);
    tt_ids_free(&ids);
}

static void check_made_texts(check *c) {
    size_t n_hashes = take_number(&c->record), n_done = 0;
    tt_text text = {0};
    for (size_t i = 0; n_hashes > 0 && long_text(i, &text); i++, n_done++, text.n = 0)
        check_hash(c, "long text", i, &text);
    for (uint32_t first = 0; n_hashes > 0 && first < 0x110000; first += SWEEP_STEP) {
        text.n = 0;
        sweep_text(first, &text);
        if (text.n == 0) continue;
        check_hash(c, "code points from", first, &text);
        n_done++;
    }
    tt_text_free(&text);
    assert_int_equal(n_done, n_hashes);
}

/* --- Families --------------------------------------------------------------------------------- */

static void check_record(check *c) {
    check_lines(c);
    check_lists(c);
    check_made_texts(c);
    if (c->n_wrong) print_error("%s: %zu differences\n", c->name, c->n_wrong);
}

static void family(void **state) {
    check c = {.name = *state};
    char name[64], path[256];
    tt_error err = {0};
    snprintf(path, sizeof path, "%s%s.json", DATA, c.name);
    if (tt_tokenizer_open(path, &c.tokenizer, &err) != TT_OK) fail_msg("%s", err.text);
    snprintf(name, sizeof name, "%s.bin", c.name);
    open_reader(name, &c.record);
    open_reader("lines.bin", &c.lines);
    check_record(&c);
    assert_int_equal(c.record.at, c.record.n);
    tt_tokenizer_close(c.tokenizer);
    free(c.record.bytes);
    free(c.lines.bytes);
    assert_int_equal(c.n_wrong, 0);
}

/* variants.json with the parts of one line of variants.jsonl, written to path. */
static void write_variant(const char *line, const char *path, char name[64]) {
    static const char *const parts[] = {"normalizer", "pre_tokenizer", "decoder"};
    json_t *base = json_load_file(DATA "variants.json", 0, NULL);
    json_t *change = json_loads(line, JSON_DISABLE_EOF_CHECK, NULL);
    assert_non_null(base);
    assert_non_null(change);
    for (int i = 0; i < 3; i++) json_object_set(base, parts[i], json_object_get(change, parts[i]));
    snprintf(name, 64, "%s", json_string_value(json_object_get(change, "name")));
    assert_int_equal(json_dump_file(base, path, 0), 0);
    json_decref(base);
    json_decref(change);
}

static void variants(void **state) {
    (void)state;
    char path[] = "/tmp/tt_tokenizer_XXXXXX", name[64];
    check c = {.name = name};
    reader changes;
    size_t n_variants = 0;
    close(mkstemp(path));
    open_reader("variants.jsonl", &changes);
    open_reader("variants.bin", &c.record);
    open_reader("lines.bin", &c.lines);
    for (char *line = changes.bytes; *line; line = strchr(line, '\n') + 1, n_variants++) {
        tt_error err = {0};
        write_variant(line, path, name);
        if (tt_tokenizer_open(path, &c.tokenizer, &err) != TT_OK)
            fail_msg("%s: %s", name, err.text);
        size_t n_before = c.n_wrong;
        c.n_wrong = 0;
        check_record(&c);
        c.n_wrong += n_before;
        tt_tokenizer_close(c.tokenizer);
    }
    unlink(path);
    assert_int_equal(c.record.at, c.record.n);
    assert_true(n_variants > 25);
    free(changes.bytes);
    free(c.record.bytes);
    free(c.lines.bytes);
    assert_int_equal(c.n_wrong, 0);
}

#define FAMILY(name)                                                                               \
    { #name, family, NULL, NULL, #name }

int main(void) {
    const struct CMUnitTest tests[] = {
        FAMILY(llama3),       FAMILY(llama2),
        FAMILY(llama2_new),   FAMILY(metaspace_split),
        FAMILY(nfc_added),    FAMILY(lower_added),
        FAMILY(cl100k),       FAMILY(o200k),
        FAMILY(three_splits), cmocka_unit_test(variants),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
}
