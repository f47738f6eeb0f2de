/* gguf: good files are indexed; bad ones are refused with the reason, whatever is wrong with them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "scratch_dir.h"
#include "trimtab/gguf.h"
#include "trimtab/rng.h"

/* A file as it grows. */
typedef struct bytes {
    unsigned char at[16384];
    size_t n;
} bytes;

static void put(bytes *b, uint64_t number, size_t n) {
    assert_true(b->n + n <= sizeof b->at);
    for (size_t i = 0; i < n; i++) b->at[b->n++] = (unsigned char)(number >> (8 * i));
}

static void put_raw(bytes *b, const void *raw, size_t n) {
    assert_true(b->n + n <= sizeof b->at);
    memcpy(b->at + b->n, raw, n);
    b->n += n;
}

static void put_string(bytes *b, const char *text) {
    put(b, strlen(text), 8);
    put_raw(b, text, strlen(text));
}

static void put_head(bytes *b, uint64_t version, uint64_t n_tensors, uint64_t n_values) {
    put_raw(b, "GGUF", 4);
    put(b, version, 4);
    put(b, n_tensors, 8);
    put(b, n_values, 8);
}

static void put_u32(bytes *b, const char *key, uint32_t value) {
    put_string(b, key);
    put(b, 4, 4);
    put(b, value, 4);
}

/* extents as the file has them: the fastest first. */
static void put_tensor(bytes *b, const char *name, uint64_t type, uint64_t offset, uint32_t n_dims,
                       uint64_t e0, uint64_t e1) {
    put_string(b, name);
    put(b, n_dims, 4);
    if (n_dims > 0) put(b, e0, 8);
    if (n_dims > 1) put(b, e1, 8);
    for (uint32_t i = 2; i < n_dims; i++) put(b, 1, 8);
    put(b, type, 4);
    put(b, offset, 8);
}

static void put_data(bytes *b, size_t alignment, size_t n) {
    while (b->n % alignment) put(b, 0, 1);
    for (size_t i = 0; i < n; i++) put(b, i, 1);
}

static tt_status open_bytes(const bytes *b, size_t n, tt_gguf **file, tt_error *err) {
    char path[128];
    snprintf(path, sizeof path, "%s/model.gguf", dir);
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(b->at, 1, n, out), n);
    assert_int_equal(fclose(out), 0);
    return tt_gguf_open(path, file, err);
}

/* Values of every type, and a tensor of every type that is taken. */
static bytes good(uint64_t version) {
    bytes b = {.n = 0};
    float f = 0.5f;
    double d = -2.25;
    put_head(&b, version, 4, 13);
    put_u32(&b, "z.u32", 4000000000u);
    put_string(&b, "a.u8"), put(&b, 0, 4), put(&b, 200, 1);
    put_string(&b, "a.i8"), put(&b, 1, 4), put(&b, 0xfe, 1);
    put_string(&b, "a.u16"), put(&b, 2, 4), put(&b, 60000, 2);
    put_string(&b, "a.i16"), put(&b, 3, 4), put(&b, 0xfffd, 2);
    put_string(&b, "a.i32"), put(&b, 5, 4), put(&b, 0xfffffffc, 4);
    put_string(&b, "a.f32"), put(&b, 6, 4), put_raw(&b, &f, 4);
    put_string(&b, "a.bool"), put(&b, 7, 4), put(&b, 1, 1);
    put_string(&b, "a.text"), put(&b, 8, 4), put_string(&b, "hello");
    put_string(&b, "a.list"), put(&b, 9, 4), put(&b, 8, 4), put(&b, 2, 8), put_string(&b, "x"),
        put_string(&b, "");
    put_string(&b, "a.u64"), put(&b, 10, 4), put(&b, 1ull << 52, 8);
    put_string(&b, "a.i64"), put(&b, 11, 4), put(&b, (uint64_t)-7, 8);
    put_string(&b, "a.f64"), put(&b, 12, 4), put_raw(&b, &d, 8);
    put_tensor(&b, "q8", 8, 32, 2, 64, 3); /* 204 bytes */
    put_tensor(&b, "f32", 0, 0, 1, 5, 0);  /* 20 bytes */
    put_tensor(&b, "bf16", 30, 256, 2, 3, 2);
    put_tensor(&b, "f16", 1, 288, 3, 2, 4);
    put_data(&b, 32, 304);
    return b;
}

static void check_number(const tt_gguf *file, const char *key, double number) {
    const tt_gguf_value *value = tt_gguf_find_value(file, key);
    assert_non_null(value);
    assert_int_equal(value->kind, TT_GGUF_NUMBER);
    assert_true(value->number == number);
}

static void check_tensor(const tt_gguf *file, const char *name, tt_dtype dtype, int n_dims,
                         const int64_t *shape, size_t n_bytes, size_t offset) {
    const tt_tensor *t = tt_gguf_find(file, name);
    assert_non_null(t);
    assert_int_equal(t->dtype, dtype);
    assert_int_equal(t->n_dims, n_dims);
    for (int i = 0; i < n_dims; i++) assert_int_equal(t->shape[i], shape[i]);
    assert_int_equal(t->n_bytes, n_bytes);
    for (size_t i = 0; i < n_bytes; i++)
        assert_int_equal(((const unsigned char *)t->data)[i], (offset + i) & 255);
    assert_string_equal(t->file, tt_gguf_path(file));
}

static void good_files_are_indexed(void **state) {
    (void)state;
    for (uint64_t version = 2; version <= 3; version++) {
        bytes b = good(version);
        tt_gguf *file;
        tt_error err = {0};
        if (open_bytes(&b, b.n, &file, &err) != TT_OK) fail_msg("%s", err.text);
        static const struct {
            const char *key;
            double number;
        } numbers[] = {{"z.u32", 4e9},    {"a.u8", 200}, {"a.i8", -2},    {"a.u16", 60000},
                       {"a.i16", -3},     {"a.i32", -4}, {"a.f32", 0.5},  {"a.bool", 1},
                       {"a.u64", 0x1p52}, {"a.i64", -7}, {"a.f64", -2.25}};
        for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
            check_number(file, numbers[i].key, numbers[i].number);
        assert_string_equal(tt_gguf_find_value(file, "a.text")->text, "hello");
        assert_int_equal(tt_gguf_find_value(file, "a.list")->n, 2);
        assert_int_equal(tt_gguf_find_value(file, "a.list")->kind, TT_GGUF_ARRAY);
        assert_null(tt_gguf_find_value(file, "a"));
        assert_int_equal(tt_gguf_n_values(file), 13);
        assert_string_equal(tt_gguf_value_at(file, 12)->key, "z.u32");
        assert_null(tt_gguf_value_at(file, 13));
        check_tensor(file, "q8", TT_DTYPE_Q8_0, 2, (int64_t[]){3, 64}, 204, 32);
        check_tensor(file, "f32", TT_DTYPE_F32, 1, (int64_t[]){5}, 20, 0);
        check_tensor(file, "bf16", TT_DTYPE_BF16, 2, (int64_t[]){2, 3}, 12, 256);
        check_tensor(file, "f16", TT_DTYPE_F16, 3, (int64_t[]){1, 4, 2}, 16, 288);
        assert_int_equal(tt_gguf_n_tensors(file), 4);
        assert_string_equal(tt_gguf_at(file, 0)->name, "bf16");
        assert_null(tt_gguf_at(file, 4));
        assert_null(tt_gguf_find(file, "q"));
        tt_gguf_close(file);
    }
}

static void an_empty_file_of_tensors_is_one(void **state) {
    (void)state;
    bytes b = {.n = 0};
    tt_gguf *file;
    put_head(&b, 3, 0, 0);
    assert_int_equal(open_bytes(&b, b.n, &file, NULL), TT_OK);
    assert_null(tt_gguf_find(file, "x"));
    assert_null(tt_gguf_find_value(file, "x"));
    tt_gguf_close(file);
    tt_gguf_close(NULL);
}

/* Every length short of the whole is refused. */
static void truncated_files_are_refused(void **state) {
    (void)state;
    bytes b = good(3);
    for (size_t n = 0; n < b.n; n++) {
        tt_gguf *file;
        tt_error err = {0};
        assert_int_equal(open_bytes(&b, n, &file, &err), TT_ERR_FORMAT);
        assert_null(file);
        assert_true(strlen(err.text) > 0);
    }
}

/* A changed bit of the header is harmless or refused; what is indexed lies within the file. */
static void flipped_bits_do_no_harm(void **state) {
    (void)state;
    bytes b = good(3);
    size_t header = b.n - 304, n_refused = 0;
    for (size_t bit = 0; bit < header * 8; bit++) {
        tt_gguf *file;
        b.at[bit / 8] ^= (unsigned char)(1 << bit % 8);
        if (open_bytes(&b, b.n, &file, NULL) == TT_OK) {
            unsigned sum = 0;
            for (size_t i = 0; i < tt_gguf_n_tensors(file); i++) {
                const tt_tensor *t = tt_gguf_at(file, i);
                for (size_t k = 0; k < t->n_bytes; k++) sum += ((const unsigned char *)t->data)[k];
            }
            assert_true(sum < 1u << 20);
            tt_gguf_close(file);
        } else {
            n_refused++;
        }
        b.at[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    assert_true(n_refused > header * 2);
}

static void check_refused(const bytes *b, const char *expected) {
    tt_gguf *file;
    tt_error err = {0};
    assert_int_equal(open_bytes(b, b->n, &file, &err), TT_ERR_FORMAT);
    assert_null(file);
    if (!strstr(err.text, expected)) fail_msg("found \"%s\", expected \"%s\"", err.text, expected);
}

static bytes with_value(const char *key, uint64_t type, uint64_t value, size_t n) {
    bytes b = {.n = 0};
    put_head(&b, 3, 0, 1);
    put_string(&b, key);
    put(&b, type, 4);
    put(&b, value, n);
    for (int i = 0; i < 64; i++) put(&b, 0, 1);
    return b;
}

static void bad_values_are_named(void **state) {
    (void)state;
    bytes b = with_value("x", 13, 0, 1);
    check_refused(&b, "key 'x': type: found 13, expected 0 to 12");
    b = with_value("x", 9, 9, 4);
    check_refused(&b, "key 'x': an array of arrays");
    b = with_value("", 0, 0, 1);
    check_refused(&b, "of 0 bytes, expected 1 to 512");
    b = with_value("a\nb", 0, 0, 1);
    check_refused(&b, "found 'a?b' of 3 bytes");
    b = with_value("split.count", 2, 3, 2);
    check_refused(&b, "key 'split.count': one of 3 files");
    b = with_value("general.alignment", 4, 24, 4);
    check_refused(&b, "key 'general.alignment': found 24, expected a power of two");
    b = with_value("general.alignment", 4, 0, 4);
    check_refused(&b, "key 'general.alignment': found 0");
    b = with_value("general.alignment", 8, 0, 8);
    check_refused(&b, "key 'general.alignment': found 32, expected a number");
    b = with_value("list", 9, 10, 4);
    b.n -= 64;
    put(&b, UINT64_MAX / 4, 8); /* 8 bytes each */
    check_refused(&b, "list at byte");
    b = with_value("text", 8, UINT64_MAX, 8);
    check_refused(&b, "text at byte");
    b = (bytes){.n = 0};
    put_head(&b, 3, 0, 2);
    put_u32(&b, "twice", 1), put_u32(&b, "twice", 1);
    check_refused(&b, "key 'twice': found twice");
}

static void bad_heads_are_named(void **state) {
    (void)state;
    bytes b = good(1);
    check_refused(&b, "version: found 1, expected 2 or 3");
    b = good(4);
    check_refused(&b, "version: found 4");
    b = good(3u << 24);
    check_refused(&b, "(big-endian)");
    b = good(3);
    b.at[0] = 'X';
    check_refused(&b, "does not begin with");
    b = (bytes){.n = 0};
    put_head(&b, 3, 1 << 20, 0);
    check_refused(&b, "1048576 tensors and 0 values in 24 bytes: truncated?");
    b = (bytes){.n = 0};
    put_head(&b, 3, UINT64_MAX, 0);
    check_refused(&b, "expected at most");
}

static bytes with_tensor(uint64_t type, uint64_t offset, uint32_t n_dims, uint64_t e0,
                         uint64_t e1) {
    bytes b = {.n = 0};
    put_head(&b, 3, 1, 0);
    put_tensor(&b, "x", type, offset, n_dims, e0, e1);
    put_data(&b, 32, 128);
    return b;
}

static void bad_tensors_are_named(void **state) {
    (void)state;
    bytes b = with_tensor(12, 0, 2, 256, 1);
    check_refused(&b, "tensor 'x': type: found Q4_K, expected F32, F16, BF16 or Q8_0");
    b = with_tensor(99, 0, 2, 32, 1);
    check_refused(&b, "tensor 'x': type: found number 99");
    b = with_tensor(31, 0, 2, 32, 1);
    check_refused(&b, "tensor 'x': type: found number 31");
    b = with_tensor(8, 0, 2, 48, 1);
    check_refused(&b, "tensor 'x': shape [1, 48] of Q8_0 overflows, or its rows are not whole");
    b = with_tensor(8, 0, 0, 0, 0);
    check_refused(&b, "tensor 'x': shape [] of Q8_0");
    b = with_tensor(0, 0, 9, 1, 1);
    check_refused(&b, "tensor 'x': found 9 dimensions");
    b = with_tensor(0, 16, 1, 4, 0);
    check_refused(&b, "tensor 'x': offset: found 16, expected a multiple of 32");
    b = with_tensor(0, 96, 1, 9, 0);
    check_refused(&b, "tensor 'x': 36 bytes from 96 on, expected them within the 128 bytes");
    b = with_tensor(0, UINT64_MAX - 31, 1, 8, 0);
    check_refused(&b, "truncated?");
    b = with_tensor(0, 0, 2, 1ull << 62, 4);
    check_refused(&b, "overflows");
    b = with_tensor(0, 0, 2, 1ull << 63, 1);
    check_refused(&b, "extent 9223372036854775808 overflows");
    b = (bytes){.n = 0};
    put_head(&b, 3, 2, 0);
    put_tensor(&b, "x", 0, 0, 1, 9, 0), put_tensor(&b, "y", 0, 32, 1, 4, 0);
    put_data(&b, 32, 128);
    check_refused(&b, "tensor 'y': its data overlap those of 'x'");
    b = (bytes){.n = 0};
    put_head(&b, 3, 2, 0);
    put_tensor(&b, "x", 0, 0, 1, 8, 0), put_tensor(&b, "x", 0, 32, 1, 4, 0);
    put_data(&b, 32, 128);
    check_refused(&b, "tensor 'x': found twice");
}

static void wider_alignment_is_kept(void **state) {
    (void)state;
    bytes b = {.n = 0};
    tt_gguf *file;
    put_head(&b, 3, 1, 1);
    put_u32(&b, "general.alignment", 256);
    put_tensor(&b, "x", 0, 256, 1, 8, 0);
    put_data(&b, 256, 256 + 32);
    assert_int_equal(open_bytes(&b, b.n, &file, NULL), TT_OK);
    check_tensor(file, "x", TT_DTYPE_F32, 1, (int64_t[]){8}, 32, 256);
    tt_gguf_close(file);
}

static void a_missing_file_is_missing(void **state) {
    (void)state;
    tt_gguf *file;
    assert_int_equal(tt_gguf_open("/nowhere/model.gguf", &file, NULL), TT_ERR_MISSING);
    assert_null(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_files_are_indexed),
        cmocka_unit_test(an_empty_file_of_tensors_is_one),
        cmocka_unit_test(truncated_files_are_refused),
        cmocka_unit_test(flipped_bits_do_no_harm),
        cmocka_unit_test(bad_values_are_named),
        cmocka_unit_test(bad_heads_are_named),
        cmocka_unit_test(bad_tensors_are_named),
        cmocka_unit_test(wider_alignment_is_kept),
        cmocka_unit_test(a_missing_file_is_missing),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
