/* Floor 1, safetensors: what is read, what is refused and with which words, what is written. */
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
#include "trimtab/file.h"
#include "trimtab/rng.h"
#include "trimtab/safetensors.h"

static const char *in_dir(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

/* Length prefix, header as given, then n_data bytes 0, 1, 2, ... Returns the file's length. */
static size_t build(unsigned char *out, const char *header, size_t n_data) {
    size_t n = strlen(header);
    for (int i = 0; i < 8; i++) out[i] = (unsigned char)(n >> (8 * i));
    memcpy(out + 8, header, n);
    for (size_t i = 0; i < n_data; i++) out[8 + n + i] = (unsigned char)i;
    return 8 + n + n_data;
}

static void write_with_header(const char *name, const char *header, size_t n_data) {
    unsigned char bytes[4096];
    assert_true(strlen(header) + n_data + 8 < sizeof bytes);
    write_file(name, bytes, build(bytes, header, n_data));
}

/* header with spaces behind it until its length is remainder modulo 8 (0: data are aligned). */
static const char *padded(const char *header, size_t remainder) {
    static char text[4096];
    size_t n = strlen(header);
    assert_true(n + 9 < sizeof text);
    memcpy(text, header, n);
    while (n % 8 != remainder) text[n++] = ' ';
    text[n] = 0;
    return text;
}

/* --- Good files ------------------------------------------------------------------------------- */

static void every_dtype_is_read(void **state) {
    (void)state;
    for (int i = 0; i < TT_N_DTYPE; i++) {
        char header[200];
        size_t size = tt_dtype_bytes((tt_dtype)i);
        snprintf(header, sizeof header,
                 "{\"x\":{\"dtype\":\"%s\",\"shape\":[2,3],\"data_offsets\":[0,%zu]}}",
                 tt_dtype_name((tt_dtype)i), 6 * size);
        write_with_header("a.safetensors", padded(header, 0), 6 * size);
        tt_safetensors *set;
        tt_status status = tt_safetensors_open(in_dir("a.safetensors"), &set, NULL);
        assert_int_equal(status, size ? TT_OK : TT_ERR_FORMAT); /* Q8_0 is of GGUF files only */
        if (!size) continue;
        const tt_tensor *x = tt_safetensors_find(set, "x");
        assert_non_null(x);
        assert_int_equal(x->dtype, i);
        assert_int_equal(x->n_dims, 2);
        assert_int_equal(x->shape[0], 2);
        assert_int_equal(x->shape[1], 3);
        assert_int_equal(x->n_bytes, 6 * size);
        assert_int_equal(x->offset, 8 + strlen(padded(header, 0)));
        for (size_t b = 0; b < x->n_bytes; b++)
            assert_int_equal(((const unsigned char *)x->data)[b], b);
        tt_safetensors_close(set);
    }
}

/* Entries out of offset order, a scalar, an empty tensor, metadata, a name with UTF-8. */
static void a_file_is_indexed_by_name(void **state) {
    (void)state;
    write_with_header(
        "b.safetensors",
        padded("{\"z\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[8,12]},"
               "\"__metadata__\":{\"format\":\"pt\",\"who\":\"test\"},"
               "\"\xC3\xA9\":{\"dtype\":\"I64\",\"shape\":[4,0],\"data_offsets\":[8,8]},"
               "\"a\":{\"shape\":[4],\"data_offsets\":[0,8],\"dtype\":\"BF16\"}}",
               0),
        12);
    tt_safetensors *set;
    tt_error err = {0};
    tt_status status = tt_safetensors_open(in_dir("b.safetensors"), &set, &err);
    assert_string_equal(err.text, "");
    assert_int_equal(status, TT_OK);
    assert_int_equal(tt_safetensors_n_tensors(set), 3);
    assert_string_equal(tt_safetensors_at(set, 0)->name, "a");
    assert_string_equal(tt_safetensors_at(set, 1)->name, "z");
    assert_string_equal(tt_safetensors_at(set, 2)->name, "\xC3\xA9");
    assert_null(tt_safetensors_at(set, 3));
    assert_null(tt_safetensors_find(set, "b"));
    assert_string_equal(tt_safetensors_metadata(set, "who"), "test");
    assert_null(tt_safetensors_metadata(set, "whom"));
    const int64_t four = 4;
    const tt_tensor *a;
    assert_int_equal(tt_safetensors_require(set, "a", TT_DTYPE_BF16, 1, &four, &a, &err), TT_OK);
    assert_int_equal(((const unsigned char *)a->data)[7], 7);
    assert_int_equal(tt_safetensors_require(set, "z", -1, 0, NULL, &a, &err), TT_OK);
    assert_int_equal(tt_safetensors_find(set, "\xC3\xA9")->n_bytes, 0);
    tt_safetensors_close(set);
    tt_safetensors_close(NULL);
}

static void require_names_what_differs(void **state) {
    (void)state;
    write_with_header("c.safetensors",
                      "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[0,8]}}", 8);
    tt_safetensors *set;
    assert_int_equal(tt_safetensors_open(in_dir("c.safetensors"), &set, NULL), TT_OK);
    const int64_t right[] = {1, 2}, wrong[] = {2, 1};
    const tt_tensor *t;
    tt_error err = {0};
    assert_int_equal(tt_safetensors_require(set, "b", -1, 2, right, &t, &err), TT_ERR_MISSING);
    assert_non_null(strstr(err.text, "tensor 'b': not there"));
    assert_int_equal(tt_safetensors_require(set, "a", -1, 2, wrong, &t, &err), TT_ERR_FORMAT);
    assert_non_null(strstr(err.text, "shape: found [1, 2], expected [2, 1]"));
    assert_int_equal(tt_safetensors_require(set, "a", -1, 1, right, &t, &err), TT_ERR_FORMAT);
    assert_non_null(strstr(err.text, "expected [1]"));
    assert_int_equal(tt_safetensors_require(set, "a", TT_DTYPE_F16, 2, right, &t, &err),
                     TT_ERR_FORMAT);
    assert_non_null(strstr(err.text, "dtype: found F32, expected F16"));
    assert_null(t);
    assert_int_equal(tt_safetensors_require(set, "a", TT_DTYPE_F32, 2, right, &t, &err), TT_OK);
    tt_safetensors_close(set);
}

/* --- Malformed files -------------------------------------------------------------------------- */

#define ENTRY(dtype, shape, begin, end)                                                            \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

typedef struct bad_file {
    const char *header;
    size_t n_data;
    const char *words; /* that the message must hold */
} bad_file;

static const bad_file bad_files[] = {
    {"", 0, "does not begin with '{'"},
    {" {}", 0, "does not begin with '{'"},
    {"[]", 0, "does not begin with '{'"},
    {"{", 0, "not valid JSON"},
    {"{}x", 0, "not valid JSON"},
    {"{\"\xFF\":1}", 0, "not valid JSON"},
    {"{\"a\\u0000b\":1}", 0, "not valid JSON"},
    {"{}", 1, "1 bytes behind the last tensor"},
    {"{\"a\":1}", 0, "tensor 'a': not an object"},
    {"{\"a\":{}}", 0, "dtype: found nothing"},
    {"{\"a\":" ENTRY("F31", "[1]", 0, 4) "}", 4, "dtype: found \"F31\""},
    {"{\"a\":" ENTRY("f32", "[1]", 0, 4) "}", 4, "dtype: found \"f32\""},
    {"{\"a\":{\"dtype\":5,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "dtype: found 5"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "shape: found nothing"},
    {"{\"a\":" ENTRY("F32", "[-1]", 0, 4) "}", 4, "shape: found [-1]"},
    {"{\"a\":" ENTRY("F32", "[1.0]", 0, 4) "}", 4, "shape: found [1.0]"},
    {"{\"a\":" ENTRY("F32", "[\"1\"]", 0, 4) "}", 4, "shape: found [\"1\"]"},
    {"{\"a\":" ENTRY("F32", "1", 0, 4) "}", 4, "shape: found 1"},
    {"{\"a\":" ENTRY("F32", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", 4, "at most 8"},
    {"{\"a\":" ENTRY("F32", "[4611686018427387904]", 0, 4) "}", 4, "overflows"},
    {"{\"a\":" ENTRY("U8", "[4294967296,4294967296]", 0, 0) "}", 0, "overflows"},
    {"{\"a\":" ENTRY("F32", "[99999999999999999999]", 0, 4) "}", 4, "not valid JSON"},
    {"{\"a\":" ENTRY("F32", "[2]", 0, 4) "}", 4, "span 4 bytes, expected 8 for F32 [2]"},
    {"{\"a\":" ENTRY("F32", "[0]", 0, 4) "}", 4, "span 4 bytes, expected 0"},
    {"{\"a\":" ENTRY("F32", "[1]", -4, 0) "}", 4, "expected 0 <= begin"},
    {"{\"a\":" ENTRY("F32", "[1]", 4, 0) "}", 4, "expected 0 <= begin"},
    {"{\"a\":" ENTRY("F32", "[2]", 0, 8) "}", 7, "end <= 7"},
    {"{\"a\":" ENTRY("F32", "[1]", 9223372036854775803, 9223372036854775807) "}", 4, "end <= 4"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "expected [begin, end]"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,4]}}", 4, "[begin, end]"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":{\"0\":4}}}", 4, "[begin, end]"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0.0,4]}}", 4, "[begin, end]"},
    {"{\"a\":" ENTRY("U8", "[4]", 0, 4) ",\"b\":" ENTRY("U8", "[4]", 2, 6) "}", 6, "overlap"},
    {"{\"a\":" ENTRY("U8", "[4]", 0, 4) ",\"b\":" ENTRY("U8", "[4]", 0, 4) "}", 4, "overlap"},
    {"{\"a\":" ENTRY("U8", "[4]", 0, 4) ",\"b\":" ENTRY("U8", "[4]", 6, 10) "}", 10, "hole"},
    {"{\"a\":" ENTRY("U8", "[4]", 1, 5) "}", 5, "hole"},
    {"{\"a\":" ENTRY("U8", "[4]", 0, 4) "}", 5, "1 bytes behind the last tensor"},
    {"{\"a\":" ENTRY("U8", "[1]", 0, 1) ",\"a\":" ENTRY("U8", "[1]", 1, 2) "}", 2, "duplicate"},
    {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
     "duplicate"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"more\":1}}", 1,
     "unknown key 'more'"},
    {"{\"__metadata__\":1}", 0, "__metadata__: not an object"},
    {"{\"__metadata__\":{\"a\":1}}", 0, "__metadata__: 'a': not a string"},
    {"{\"a\\u001bb\":" ENTRY("U8", "[1]", 0, 1) "}", 1, "tensor 'a?b': control byte 0x1b"},
};

static void malformed_headers_are_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof bad_files / sizeof *bad_files; i++) {
        write_with_header("bad.safetensors", bad_files[i].header, bad_files[i].n_data);
        tt_safetensors *set = (tt_safetensors *)1;
        tt_error err = {0};
        tt_status status = tt_safetensors_open(in_dir("bad.safetensors"), &set, &err);
        if (status != TT_ERR_FORMAT || !strstr(err.text, bad_files[i].words))
            fail_msg("%s\n  gave status %d, text: %s\n  expected: %s", bad_files[i].header, status,
                     err.text, bad_files[i].words);
        assert_null(set);
        assert_non_null(strstr(err.text, "bad.safetensors"));
    }
}

static void open_expecting(const char *name, tt_status expected, const char *words) {
    tt_safetensors *set = (tt_safetensors *)1;
    tt_error err = {0};
    tt_status status = tt_safetensors_open(in_dir(name), &set, &err);
    if (status != expected || !strstr(err.text, words))
        fail_msg("%s gave status %d, text: %s\n  expected: %s", name, status, err.text, words);
    assert_null(set);
}

static void header_lengths_are_checked(void **state) {
    (void)state;
    unsigned char bytes[64] = {0};
    write_file("h.safetensors", bytes, 0);
    open_expecting("h.safetensors", TT_ERR_FORMAT, "0 bytes, expected at least the 8");
    write_file("h.safetensors", bytes, 7);
    open_expecting("h.safetensors", TT_ERR_FORMAT, "7 bytes, expected at least the 8");
    size_t n = build(bytes, "{}", 0);
    bytes[0] = 3;
    write_file("h.safetensors", bytes, n);
    open_expecting("h.safetensors", TT_ERR_FORMAT, "header of 3 bytes, but only 2 follow");
    memset(bytes, 0xFF, 8);
    write_file("h.safetensors", bytes, n);
    open_expecting("h.safetensors", TT_ERR_FORMAT, "header of 18446744073709551615 bytes");
    uint64_t just_above = 100000001;
    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)(just_above >> (8 * i));
    write_file("h.safetensors", bytes, n);
    open_expecting("h.safetensors", TT_ERR_FORMAT, "at most 100000000");
    open_expecting("none.safetensors", TT_ERR_MISSING, "none.safetensors");
}

/* The reference accepts these; trimtab uses the pointers as they are and says what to do. */
static void unaligned_data_are_refused_with_a_remedy(void **state) {
    (void)state;
    const char *header = "{\"a\":" ENTRY("BF16", "[1]", 0, 2) "}";
    write_with_header("u.safetensors", padded(header, 7), 2);
    open_expecting("u.safetensors", TT_ERR_FORMAT, "expected a multiple of 2 for BF16");
    open_expecting("u.safetensors", TT_ERR_FORMAT, "save it again");
    write_with_header("u.safetensors", padded(header, 6), 2);
    tt_safetensors *set;
    assert_int_equal(tt_safetensors_open(in_dir("u.safetensors"), &set, NULL), TT_OK);
    tt_safetensors_close(set);
    write_with_header("u.safetensors",
                      "{\"a\":" ENTRY("U8", "[1]", 0, 1) ",\"b\":" ENTRY("F16", "[1]", 1, 3) "}",
                      3);
    open_expecting("u.safetensors", TT_ERR_FORMAT, "tensor 'b': data begin at byte");
}

static void json_bombs_are_refused(void **state) {
    (void)state;
    enum { DEPTH = 100000, VALUES = (1 << 21) + 8 };
    char *header = malloc(2 * VALUES + 64);
    unsigned char *bytes = malloc(2 * VALUES + 128);
    assert_non_null(header);
    assert_non_null(bytes);
    strcpy(header, "{\"a\":");
    memset(header + 5, '[', DEPTH);
    header[5 + DEPTH] = 0;
    write_file("bomb.safetensors", bytes, build(bytes, header, 0));
    open_expecting("bomb.safetensors", TT_ERR_FORMAT, "depth");
    char *at = header + 5;
    *at++ = '[';
    for (int i = 0; i < VALUES; i++) *at++ = '0', *at++ = ',';
    strcpy(at, "0]}");
    write_file("bomb.safetensors", bytes, build(bytes, header, 0));
    open_expecting("bomb.safetensors", TT_ERR_FORMAT, "more than 2097152 values");
    free(bytes);
    free(header);
}

/* --- Sharded sets ----------------------------------------------------------------------------- */

static void write_text(const char *name, const char *text) {
    write_file(name, text, strlen(text));
}

static void write_shards(const char *index) {
    write_with_header("one.safetensors",
                      "{\"b\":" ENTRY("U8", "[2]", 0, 2) ",\"d\":" ENTRY(
                          "U8", "[1]", 2, 3) ",\"__metadata__\":{\"format\":\"pt\"}}",
                      3);
    write_with_header("two.safetensors", "{\"a\":" ENTRY("U8", "[4]", 0, 4) "}", 4);
    write_text("model.safetensors.index.json", index);
}

static void shards_become_one_set(void **state) {
    (void)state;
    write_shards("{\"metadata\":{\"total_size\":7},\"weight_map\":{\"a\":\"two.safetensors\","
                 "\"b\":\"one.safetensors\",\"d\":\"one.safetensors\"}}");
    tt_safetensors *set;
    tt_error err = {0};
    tt_status status = tt_safetensors_open(dir, &set, &err);
    assert_string_equal(err.text, "");
    assert_int_equal(status, TT_OK);
    assert_int_equal(tt_safetensors_n_tensors(set), 3);
    assert_string_equal(tt_safetensors_at(set, 0)->name, "a");
    assert_non_null(strstr(tt_safetensors_find(set, "a")->file, "two.safetensors"));
    assert_int_equal(*(const unsigned char *)tt_safetensors_find(set, "d")->data, 2);
    assert_string_equal(tt_safetensors_metadata(set, "format"), "pt");
    tt_safetensors_close(set);
}

typedef struct bad_index {
    const char *text;
    tt_status status;
    const char *words;
} bad_index;

#define B_AND_D ",\"b\":\"one.safetensors\",\"d\":\"one.safetensors\"}}"

static const bad_index bad_indices[] = {
    {"", TT_ERR_FORMAT, "not valid JSON"},
    {"[]", TT_ERR_FORMAT, "expected an object"},
    {"{}", TT_ERR_FORMAT, "weight_map: expected an object"},
    {"{\"weight_map\":[]}", TT_ERR_FORMAT, "weight_map: expected an object"},
    {"{\"weight_map\":{}}", TT_ERR_FORMAT, "weight_map: expected an object"},
    {"{\"weight_map\":{\"a\":7}}", TT_ERR_FORMAT, "weight_map: 'a': found 7"},
    {"{\"weight_map\":{\"a\":\"\"}}", TT_ERR_FORMAT, "the name of a file beside it"},
    {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", TT_ERR_FORMAT, "found \"/etc/passwd\""},
    {"{\"weight_map\":{\"a\":\"../x\"}}", TT_ERR_FORMAT, "found \"../x\""},
    {"{\"weight_map\":{\"a\":\"..\"}}", TT_ERR_FORMAT, "found \"..\""},
    {"{\"weight_map\":{\"a\":\"x/../../y\"}}", TT_ERR_FORMAT, "found \"x/../../y\""},
    {"{\"weight_map\":{\"a\":\"nine.safetensors\"" B_AND_D, TT_ERR_MISSING, "nine.safetensors"},
    {"{\"weight_map\":{\"a\":\"one.safetensors\",\"a\":\"two.safetensors\"}}", TT_ERR_FORMAT,
     "duplicate"},
    {"{\"weight_map\":{\"a\":\"one.safetensors\"" B_AND_D, TT_ERR_FORMAT,
     "tensor 'a': expected in one.safetensors, found in no shard"},
    {"{\"weight_map\":{\"a\":\"two.safetensors\",\"c\":\"two.safetensors\"" B_AND_D, TT_ERR_FORMAT,
     "tensor 'c': expected in two.safetensors, found in no shard"},
    {"{\"weight_map\":{\"a\":\"two.safetensors\",\"b\":\"two.safetensors\","
     "\"d\":\"one.safetensors\"}}",
     TT_ERR_FORMAT, "tensor 'b': expected in two.safetensors, found in one.safetensors"},
    {"{\"weight_map\":{\"a\":\"two.safetensors\",\"b\":\"one.safetensors\"}}", TT_ERR_FORMAT,
     "tensor 'd': not in the weight_map"},
};

static void malformed_indices_are_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof bad_indices / sizeof *bad_indices; i++) {
        write_shards(bad_indices[i].text);
        tt_safetensors *set = (tt_safetensors *)1;
        tt_error err = {0};
        tt_status status = tt_safetensors_open(dir, &set, &err);
        if (status != bad_indices[i].status || !strstr(err.text, bad_indices[i].words))
            fail_msg("%s\n  gave status %d, text: %s\n  expected: %s", bad_indices[i].text, status,
                     err.text, bad_indices[i].words);
        assert_null(set);
    }
}

static void a_name_in_two_shards_is_refused(void **state) {
    (void)state;
    write_shards("{\"weight_map\":{\"a\":\"two.safetensors\"" B_AND_D);
    write_with_header("two.safetensors",
                      "{\"a\":" ENTRY("U8", "[4]", 0, 4) ",\"b\":" ENTRY("U8", "[2]", 4, 6) "}", 6);
    tt_safetensors *set;
    tt_error err = {0};
    assert_int_equal(tt_safetensors_open(dir, &set, &err), TT_ERR_FORMAT);
    assert_non_null(strstr(err.text, "tensor 'b': also in"));
}

static void a_directory_without_weights_says_what_it_wants(void **state) {
    (void)state;
    assert_int_equal(unlink(in_dir("model.safetensors.index.json")), 0);
    tt_safetensors *set;
    tt_error err = {0};
    assert_int_equal(tt_safetensors_open(dir, &set, &err), TT_ERR_MISSING);
    assert_non_null(strstr(err.text, "neither model.safetensors nor"));
    write_with_header("model.safetensors", "{\"q\":" ENTRY("U8", "[1]", 0, 1) "}", 1);
    assert_int_equal(tt_safetensors_open(dir, &set, &err), TT_OK);
    assert_non_null(tt_safetensors_find(set, "q"));
    tt_safetensors_close(set);
}

/* --- Damage ----------------------------------------------------------------------------------- */

/* Opens what is in the file now and reads every byte a tensor claims. Returns the status. */
static tt_status open_and_touch(const char *name) {
    static volatile unsigned sum;
    tt_safetensors *set;
    tt_error err = {0};
    tt_status status = tt_safetensors_open(in_dir(name), &set, &err);
    if (status != TT_OK) {
        assert_true(err.text[0] != 0);
        return status;
    }
    for (size_t i = 0; i < tt_safetensors_n_tensors(set); i++) {
        const tt_tensor *t = tt_safetensors_at(set, i);
        assert_int_equal((uintptr_t)t->data % (t->n_bytes ? tt_dtype_bytes(t->dtype) : 1), 0);
        for (size_t b = 0; b < t->n_bytes; b++) sum += ((const unsigned char *)t->data)[b];
    }
    (void)sum;
    tt_safetensors_close(set);
    return TT_OK;
}

static size_t build_sample(unsigned char *bytes) {
    const char *header =
        "{\"__metadata__\":{\"format\":\"pt\"},\"w\":" ENTRY("F32", "[2,2]", 0, 16) ",\"v\":" ENTRY(
            "BF16", "[3]", 16, 22) ",\"u\":" ENTRY("U8", "[]", 22, 23) "}";
    return build(bytes, padded(header, 0), 23);
}

static void every_truncation_is_noticed(void **state) {
    (void)state;
    unsigned char bytes[512];
    size_t n = build_sample(bytes);
    write_file("t.safetensors", bytes, n);
    assert_int_equal(open_and_touch("t.safetensors"), TT_OK);
    for (size_t cut = 0; cut < n; cut++) {
        write_file("t.safetensors", bytes, cut);
        assert_int_equal(open_and_touch("t.safetensors"), TT_ERR_FORMAT);
    }
}

static void no_damage_crashes(void **state) {
    (void)state;
    unsigned char bytes[512];
    size_t n = build_sample(bytes);
    size_t n_data = 23, n_refused = 0, n_tried = 0;
    for (size_t bit = 0; bit < 8 * (n - n_data); bit++) {
        bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
        write_file("t.safetensors", bytes, n);
        n_refused += open_and_touch("t.safetensors") != TT_OK;
        n_tried++;
        bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    /* A flip may rename a tensor or a metadata string, or keep the length; most are refused. */
    assert_true(n_refused > n_tried / 2);
    for (uint64_t round = 0; round < 3000; round++) {
        n = build_sample(bytes);
        for (uint64_t i = 0; i < 3; i++) {
            uint64_t draw = tt_rng_bits(7, round, i);
            bytes[draw % n] = (unsigned char)(draw >> 32);
        }
        write_file("t.safetensors", bytes, n - tt_rng_below(8, round, 0, 4));
        tt_status status = open_and_touch("t.safetensors");
        assert_true(status == TT_OK || status == TT_ERR_FORMAT);
    }
}

/* --- Writing ---------------------------------------------------------------------------------- */

static void a_layout_reads_back(void **state) {
    (void)state;
    tt_tensor tensors[] = {
        {.name = "steer.\"u\"", .dtype = TT_DTYPE_F64, .n_dims = 1, .shape = {3}},
        {.name = "b", .dtype = TT_DTYPE_F32, .n_dims = 2, .shape = {2, 1}},
        {.name = "e", .dtype = TT_DTYPE_F32, .n_dims = 1, .shape = {0}},
        {.name = "s", .dtype = TT_DTYPE_U8, .n_dims = 0},
    };
    const char *metadata[] = {"format", "pt", "note", "a \"quoted\" line\n"};
    char *header;
    size_t header_bytes, file_bytes;
    assert_int_equal(
        tt_safetensors_layout(tensors, 4, metadata, 2, &header, &header_bytes, &file_bytes, NULL),
        TT_OK);
    assert_int_equal(header_bytes % 8, 0);
    assert_int_equal(file_bytes, header_bytes + 24 + 8 + 0 + 1);
    assert_int_equal(tensors[1].offset, header_bytes + 24);
    assert_int_equal(tensors[1].n_bytes, 8);
    unsigned char bytes[1024] = {0};
    memcpy(bytes, header, header_bytes);
    memcpy(bytes + tensors[1].offset, "abcdefgh", 8);
    write_file("w.safetensors", bytes, file_bytes);
    tt_safetensors *set;
    assert_int_equal(tt_safetensors_open(in_dir("w.safetensors"), &set, NULL), TT_OK);
    assert_int_equal(tt_safetensors_n_tensors(set), 4);
    assert_memory_equal(tt_safetensors_find(set, "b")->data, "abcdefgh", 8);
    assert_int_equal(tt_safetensors_find(set, "b")->offset, tensors[1].offset);
    assert_int_equal(tt_safetensors_find(set, "steer.\"u\"")->n_bytes, 24);
    assert_string_equal(tt_safetensors_metadata(set, "note"), "a \"quoted\" line\n");
    tt_safetensors_close(set);
    free(header);
}

static void the_header_is_exactly_this(void **state) {
    (void)state;
    tt_tensor tensor = {.name = "v", .dtype = TT_DTYPE_F32, .n_dims = 2, .shape = {1, 2}};
    const char *metadata[] = {"format", "pt"};
    char *header;
    size_t header_bytes, file_bytes;
    assert_int_equal(
        tt_safetensors_layout(&tensor, 1, metadata, 1, &header, &header_bytes, &file_bytes, NULL),
        TT_OK);
    const char *text = "{\"__metadata__\":{\"format\":\"pt\"},\"v\":{\"dtype\":\"F32\","
                       "\"shape\":[1,2],\"data_offsets\":[0,8]}}";
    size_t n = strlen(text), padded = (n + 7) / 8 * 8;
    assert_int_equal(header_bytes, 8 + padded);
    assert_int_equal(header[0], padded);
    assert_memory_equal(header + 1, "\0\0\0\0\0\0\0", 7);
    assert_memory_equal(header + 8, text, n);
    for (size_t i = n; i < padded; i++) assert_int_equal(header[8 + i], ' ');
    free(header);
}

static void expect_no_layout(tt_tensor *tensors, size_t n, const char *words) {
    char *header = (char *)1;
    size_t header_bytes, file_bytes;
    tt_error err = {0};
    assert_int_equal(
        tt_safetensors_layout(tensors, n, NULL, 0, &header, &header_bytes, &file_bytes, &err),
        TT_ERR_INTERNAL);
    assert_non_null(strstr(err.text, words));
    assert_null(header);
}

static void impossible_layouts_are_refused(void **state) {
    (void)state;
    tt_tensor huge = {.name = "h", .dtype = TT_DTYPE_F32, .n_dims = 2, .shape = {INT64_MAX, 4}};
    expect_no_layout(&huge, 1, "overflows");
    tt_tensor negative = {.name = "h", .dtype = TT_DTYPE_F32, .n_dims = 1, .shape = {-1}};
    expect_no_layout(&negative, 1, "overflows");
    tt_tensor twice[] = {{.name = "a", .dtype = TT_DTYPE_U8, .n_dims = 1, .shape = {8}},
                         {.name = "a", .dtype = TT_DTYPE_U8, .n_dims = 1, .shape = {8}}};
    expect_no_layout(twice, 2, "given twice");
    tt_tensor disordered[] = {{.name = "a", .dtype = TT_DTYPE_U8, .n_dims = 1, .shape = {3}},
                              {.name = "b", .dtype = TT_DTYPE_F32, .n_dims = 1, .shape = {1}}};
    expect_no_layout(disordered, 2, "larger elements first");
    tt_tensor reserved = {.name = "__metadata__", .dtype = TT_DTYPE_U8};
    expect_no_layout(&reserved, 1, "__metadata__");
    tt_tensor latin = {.name = "\xE9", .dtype = TT_DTYPE_U8};
    expect_no_layout(&latin, 1, "not UTF-8");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_dtype_is_read),
        cmocka_unit_test(a_file_is_indexed_by_name),
        cmocka_unit_test(require_names_what_differs),
        cmocka_unit_test(malformed_headers_are_refused),
        cmocka_unit_test(header_lengths_are_checked),
        cmocka_unit_test(unaligned_data_are_refused_with_a_remedy),
        cmocka_unit_test(json_bombs_are_refused),
        cmocka_unit_test(shards_become_one_set),
        cmocka_unit_test(malformed_indices_are_refused),
        cmocka_unit_test(a_name_in_two_shards_is_refused),
        cmocka_unit_test(a_directory_without_weights_says_what_it_wants),
        cmocka_unit_test(every_truncation_is_noticed),
        cmocka_unit_test(no_damage_crashes),
        cmocka_unit_test(a_layout_reads_back),
        cmocka_unit_test(the_header_is_exactly_this),
        cmocka_unit_test(impossible_layouts_are_refused),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
