/* Tokenizer: token for token what HF tokenizers and transformers gave (recorded by
 * record_tokenizer.py, which says how the files are laid out). Lines and code points are drawn on
 * both sides; only hashes of what they became are kept. By default a bounded sample of blocks, for
 * every family another; with the argument "all" all 22 000 lines of every family (minutes), "all FAMILY" of one. */
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

#include "tokenizer_lines.h"
#include "trimtab/file.h"
#include "trimtab/tokenizer.h"

#define DATA TT_SOURCE_DIR "/tests/golden/tokenizer/"
#define REAL TT_SOURCE_DIR "/../shared/models/stories260K"

enum { MAX_SHOWN = 3, SAMPLE = 22 /* one block of so many */, VARIANT_BLOCKS = 20 };

static bool whole; /* argument "all" */

/* Recorded hashes. */
typedef struct record {
    char *bytes;
    size_t n; /* hashes */
} record;

typedef struct check {
    const char *name;
    tt_tokenizer *tokenizer;
    tt_text line, raw;
    size_t n_wrong;
} check;

static void open_record(const char *name, record *out) {
    char path[256];
    snprintf(path, sizeof path, "%s%s", DATA, name);
    assert_int_equal(tt_file_read_all(path, 0, &out->bytes, &out->n, NULL), TT_OK);
    out->n /= 4;
}

static uint32_t hash_at(const record *r, size_t i) {
    assert_true(i < r->n);
    const unsigned char *b = (const unsigned char *)r->bytes + 4 * i;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static void open_tokenizer(const char *path, check *c) {
    tt_error err = {0};
    if (tt_tokenizer_open(path, &c->tokenizer, &err) != TT_OK) fail_msg("%s", err.text);
}

static void close_check(check *c) {
    tt_tokenizer_close(c->tokenizer);
    tt_text_free(&c->line);
    tt_text_free(&c->raw);
}

/* --- Blocks ----------------------------------------------------------------------------------- */

static uint64_t hash_decoded(const check *c, uint64_t h, const tt_ids *ids, bool skip) {
    tt_text text = {0};
    assert_int_equal(tt_tokenizer_decode(c->tokenizer, ids->ids, ids->n, skip, &text, NULL), TT_OK);
    h = lines_hash_text(h, &text);
    tt_text_free(&text);
    return h;
}

static uint64_t hash_line(check *c, uint64_t h, uint64_t number, bool shown) {
    tt_ids plain = {0}, full = {0};
    lines_line(number, &c->line, &c->raw);
    bool valid = c->line.n == c->raw.n && !memcmp(c->line.bytes, c->raw.bytes, c->raw.n);
    assert_int_equal(tt_tokenizer_encode(c->tokenizer, c->raw.bytes, c->raw.n, false, &plain, NULL),
                     valid ? TT_OK : TT_ERR_FORMAT);
    plain.n = 0;
    for (int special = 0; special < 2; special++)
        assert_int_equal(tt_tokenizer_encode(c->tokenizer, c->line.bytes, c->line.n, special == 1,
                                             special ? &full : &plain, NULL),
                         TT_OK);
    h = lines_hash_ids(lines_hash_ids(h, &plain), &full);
    h = hash_decoded(c, hash_decoded(c, h, &full, false), &full, true);
    if (shown) {
        print_error("line %llu:", (unsigned long long)number);
        for (size_t i = 0; i < c->line.n; i++)
            print_error(" %02x", (unsigned char)c->line.bytes[i]);
        print_error("\n  ids");
        for (size_t i = 0; i < full.n; i++) print_error(" %d", (int)full.ids[i]);
        print_error("\n");
    }
    tt_ids_free(&plain);
    tt_ids_free(&full);
    return h;
}

static uint64_t hash_block(check *c, uint64_t block, bool shown) {
    uint64_t h = 0;
    tt_ids ids = {0};
    for (uint64_t i = 0; i < LINES_BLOCK; i++) h = hash_line(c, h, block * LINES_BLOCK + i, shown);
    lines_ids(block, tt_tokenizer_n_ids(c->tokenizer), &ids);
    h = hash_decoded(c, hash_decoded(c, h, &ids, false), &ids, true);
    tt_ids_free(&ids);
    return h;
}

static void wrong(check *c, const char *what, size_t number) {
    if (c->n_wrong++ < MAX_SHOWN) print_error("%s: %s %zu differs\n", c->name, what, number);
}

static void check_block(check *c, size_t block, uint32_t expected) {
    if (hash_block(c, block, false) >> 32 == expected) return;
    wrong(c, "block", block);
    if (c->n_wrong > 1) return;
    hash_block(c, block, true);
    print_error("expected: record_tokenizer.py %s %zu\n", c->name, block);
}

/* Hashes from r's first on; of the sample those that `turn` chooses. */
static void check_blocks(check *c, const record *r, size_t first, size_t turn) {
    for (size_t i = 0; i < LINES_N_BLOCKS; i++)
        if (whole || i % SAMPLE == turn % SAMPLE) check_block(c, i, hash_at(r, first + i));
}

/* --- Sweeps, long texts ----------------------------------------------------------------------- */

static void check_text(check *c, const char *what, size_t number, uint32_t expected) {
    tt_ids ids = {0};
    assert_int_equal(tt_tokenizer_encode(c->tokenizer, c->line.bytes, c->line.n, false, &ids, NULL),
                     TT_OK);
    if (lines_hash_ids(0, &ids) >> 32 != expected) wrong(c, what, number);
    tt_ids_free(&ids);
}

static void check_sweeps(check *c, const record *r, size_t first, size_t turn, size_t step) {
    for (uint32_t i = 0; i < LINES_N_SWEEPS; i++) {
        if (!whole && i % step != turn % step) continue;
        lines_sweep(i, &c->line);
        check_text(c, "sweep of 4096 code points", i, hash_at(r, first + i));
    }
}

static void check_long_texts(check *c, const record *r, size_t first, size_t turn) {
    for (uint32_t i = 0; i < LINES_N_LONG; i++) {
        if (!whole && i != turn % LINES_N_LONG) continue;
        lines_long(i, &c->line);
        check_text(c, "long text", i, hash_at(r, first + i));
    }
}

/* --- Families --------------------------------------------------------------------------------- */

static const char *const families[] = {
    "llama1",  "llama2",        "llama2_new",   "llama3",    "mistral_v1",      "mistral_v3",
    "mixtral", "tekken",        "qwen2",        "qwen3",     "gemma",           "gemma3",
    "phi3",    "phi4_mini",     "smollm2",      "smollm3",   "olmo2",           "granite3",
    "t5",      "unigram_bytes", "three_splits", "nfc_added", "metaspace_split", "lower_added"};
enum { N_FAMILIES = sizeof families / sizeof families[0] };

static void lines_are_the_recorded_ones(void **state) {
    (void)state;
    record r;
    tt_text line = {0}, raw = {0};
    open_record("lines.bin", &r);
    assert_int_equal(r.n, LINES_N_BLOCKS);
    for (size_t i = 0; i < LINES_N_BLOCKS; i++) {
        uint64_t h = 0;
        for (size_t k = 0; k < LINES_BLOCK; k++) {
            lines_line(i * LINES_BLOCK + k, &line, &raw);
            h = lines_hash_text(h, &line);
        }
        if (h >> 32 != hash_at(&r, i)) fail_msg("block %zu has other lines", i);
    }
    tt_text_free(&line);
    tt_text_free(&raw);
    free(r.bytes);
}

static void family(void **state) {
    const char *const *place = *state;
    size_t turn = (size_t)(place - families);
    check by_file = {.name = *place}, by_directory = {.name = *place};
    char path[256], name[64];
    record r;
    snprintf(name, sizeof name, "%s/hashes.bin", *place);
    open_record(name, &r);
    assert_int_equal(r.n, 2 * LINES_N_BLOCKS + LINES_N_SWEEPS + LINES_N_LONG);
    snprintf(path, sizeof path, "%s%s/tokenizer.json", DATA, *place);
    open_tokenizer(path, &by_file);
    check_blocks(&by_file, &r, 0, turn);
    check_sweeps(&by_file, &r, 2 * LINES_N_BLOCKS, turn, N_FAMILIES);
    check_long_texts(&by_file, &r, 2 * LINES_N_BLOCKS + LINES_N_SWEEPS, turn);
    close_check(&by_file);
    snprintf(path, sizeof path, "%s%s", DATA, *place);
    open_tokenizer(path, &by_directory);
    check_blocks(&by_directory, &r, LINES_N_BLOCKS, turn + SAMPLE / 2);
    close_check(&by_directory);
    free(r.bytes);
    assert_int_equal(by_file.n_wrong, 0);
    assert_int_equal(by_directory.n_wrong, 0);
}

/* A published tokenizer, where it is at hand. */
static void real_vocabulary(void **state) {
    (void)state;
    if (!tt_file_is_dir(REAL)) skip();
    check by_file = {.name = "stories260K"}, by_directory = {.name = "stories260K"};
    record r;
    open_record("real.bin", &r);
    open_tokenizer(REAL "/tokenizer.json", &by_file);
    check_blocks(&by_file, &r, 0, 0);
    close_check(&by_file);
    open_tokenizer(REAL, &by_directory);
    check_blocks(&by_directory, &r, LINES_N_BLOCKS, 1);
    close_check(&by_directory);
    free(r.bytes);
    assert_int_equal(by_file.n_wrong + by_directory.n_wrong, 0);
}

/* --- Variants --------------------------------------------------------------------------------- */

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

static bool is_swept(const char *name) {
    static const char *const swept[] = {"words", "digits", "punctuation", "split_classes",
                                        "split_script"};
    for (size_t i = 0; i < sizeof swept / sizeof swept[0]; i++)
        if (!strcmp(name, swept[i])) return true;
    return !strncmp(name, "form_", 5);
}

static size_t check_variant(check *c, const record *r, size_t at, size_t turn) {
    for (size_t k = 0; k < VARIANT_BLOCKS; k++) {
        if (!whole && k % 7 != turn % 7) continue;
        check_block(c, turn % SAMPLE + k * SAMPLE, hash_at(r, at + k));
    }
    at += VARIANT_BLOCKS;
    if (!is_swept(c->name)) return at;
    check_sweeps(c, r, at, turn, 4);
    return at + LINES_N_SWEEPS;
}

static void variants(void **state) {
    (void)state;
    char path[] = "/tmp/tt_tokenizer_XXXXXX", name[64], *text;
    check c = {.name = name};
    record r;
    size_t n_variants = 0, at = 0, n;
    close(mkstemp(path));
    assert_int_equal(tt_file_read_all(DATA "variants.jsonl", 0, &text, &n, NULL), TT_OK);
    open_record("variants.bin", &r);
    for (char *line = text; *line; line = strchr(line, '\n') + 1, n_variants++) {
        write_variant(line, path, name);
        open_tokenizer(path, &c);
        at = check_variant(&c, &r, at, n_variants);
        close_check(&c);
        c = (check){.name = name, .n_wrong = c.n_wrong};
    }
    unlink(path);
    assert_int_equal(at, r.n);
    assert_true(n_variants > 25);
    free(text);
    free(r.bytes);
    assert_int_equal(c.n_wrong, 0);
}

/* --- Directories ------------------------------------------------------------------------------ */

static void write_file(const char *dir, const char *name, const json_t *value) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s.json", dir, name);
    unlink(path);
    if (json_is_object(value)) assert_int_equal(json_dump_file(value, path, 0), 0);
}

static void write_directory(const json_t *row, const char *dir) {
    static const char *const files[] = {"tokenizer_config", "special_tokens_map", "config"};
    char base[256];
    snprintf(base, sizeof base, "%s%s/tokenizer.json", DATA,
             json_string_value(json_object_get(row, "base")));
    json_t *file = json_load_file(base, 0, NULL);
    assert_non_null(file);
    assert_int_equal(json_object_update(file, json_object_get(row, "file")), 0);
    write_file(dir, "tokenizer", file);
    json_decref(file);
    for (int i = 0; i < 3; i++) write_file(dir, files[i], json_object_get(row, files[i]));
}

static void check_directory(check *c, const json_t *row, const char *dir) {
    size_t block = (size_t)json_integer_value(json_object_get(row, "block"));
    const json_t *specials = json_object_get(row, "specials");
    const json_t *hashes = json_object_get(row, "hashes");
    size_t n_before = c->n_wrong;
    open_tokenizer(dir, c);
    for (size_t i = 0; i < TT_N_SPECIAL_TOKENS; i++)
        if (tt_tokenizer_special(c->tokenizer, (tt_special_token)i) !=
            json_integer_value(json_array_get(specials, i)))
            wrong(c, "special token", i);
    for (size_t i = 0; i < 2; i++)
        check_block(c, (block + 200 * i) % LINES_N_BLOCKS,
                    (uint32_t)json_integer_value(json_array_get(hashes, i)));
    if (c->n_wrong > n_before) {
        char *text = json_dumps(row, JSON_ENSURE_ASCII);
        print_error("%s\n", text);
        free(text);
    }
}

static void directories(void **state) {
    (void)state;
    char dir[] = "/tmp/tt_tokenizer_XXXXXX", *text;
    check c = {.name = "directory"};
    size_t n, n_rows = 0;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(tt_file_read_all(DATA "directories.jsonl", 0, &text, &n, NULL), TT_OK);
    for (char *line = text; *line; line = strchr(line, '\n') + 1, n_rows++) {
        json_t *row = json_loads(line, JSON_DISABLE_EOF_CHECK, NULL);
        assert_non_null(row);
        write_directory(row, dir);
        check_directory(&c, row, dir);
        json_decref(row);
        close_check(&c);
        c = (check){.name = c.name, .n_wrong = c.n_wrong};
    }
    assert_int_equal(tt_file_remove_tree(dir, NULL), TT_OK);
    free(text);
    assert_true(n_rows > 60);
    assert_int_equal(c.n_wrong, 0);
}

int main(int n_arguments, char **arguments) {
    struct CMUnitTest tests[N_FAMILIES + 4] = {
        cmocka_unit_test(lines_are_the_recorded_ones), cmocka_unit_test(real_vocabulary),
        cmocka_unit_test(variants), cmocka_unit_test(directories)};
    whole = n_arguments > 1 && !strcmp(arguments[1], "all");
    if (n_arguments > 2) cmocka_set_test_filter(arguments[2]);
    if (!lines_open(DATA "texts.json")) return 1;
    for (size_t i = 0; i < N_FAMILIES; i++)
        tests[4 + i] = (struct CMUnitTest){families[i], family, NULL, NULL, (void *)&families[i]};
    int n_failed = cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
    lines_close();
    return n_failed;
}
