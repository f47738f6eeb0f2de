/* gemm: matrices in blocks with factors (FP8, Q8_0) and interleaved rows. What an element is worth
 * is compared with the formats' definitions in double; products with those of the same numbers in
 * F32, bit for bit, since only packing differs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "../../src/shape/gemm_private.h"
#include "numbers.h"
#include "trimtab/ops.h"

static double half_value(uint16_t h) {
    int exponent = h >> 10 & 31, mantissa = h & 1023;
    double value = exponent == 0    ? ldexp(mantissa, -24)
                   : exponent == 31 ? (mantissa ? (double)NAN : HUGE_VAL)
                                    : ldexp(1024 + mantissa, exponent - 25);
    return h & 0x8000 ? -value : value;
}

/* e4m3fn: bias 7, subnormals, no infinities; only all ones is NaN. */
static double e4m3_value(uint8_t code) {
    int exponent = code >> 3 & 15, mantissa = code & 7;
    double value = exponent == 0                     ? ldexp(mantissa, -9)
                   : exponent == 15 && mantissa == 7 ? (double)NAN
                                                     : ldexp(8 + mantissa, exponent - 10);
    return code & 0x80 ? -value : value;
}

/* A matrix with owned bytes, and its numbers by definition. */
typedef struct made {
    tt_matrix w;
    float *scale;
    float *value; /* [rows x cols] */
} made;

static void fill_f8(made *m, int row_shift, int col_shift, int skip) {
    int n_cols = ((m->w.cols - 1) >> col_shift) + 1;
    size_t n = (size_t)m->w.rows * (size_t)m->w.cols;
    int n_rows = (int)((m->w.rows - 1 + (int64_t)skip) >> row_shift) + 1;
    uint8_t *codes = malloc(n);
    m->scale = numbers_random((size_t)n_rows * (size_t)n_cols, 77, 1e-2);
    for (size_t i = 0; i < n; i++) {
        codes[i] = (uint8_t)tt_rng_bits(1, 5, i);
        if ((codes[i] & 0x7f) == 0x7f) codes[i] ^= 1; /* NaN has a test of its own */
        int row = (int)(i / (size_t)m->w.cols), col = (int)(i % (size_t)m->w.cols);
        int64_t at = ((row + (int64_t)skip) >> row_shift) * n_cols + (col >> col_shift);
        m->value[i] = (float)(e4m3_value(codes[i]) * (double)m->scale[at]);
    }
    m->w.data = codes;
    m->w.scale = m->scale;
    m->w.scale_row_shift = row_shift;
    m->w.scale_col_shift = col_shift;
    m->w.scale_skip = skip;
}

static void fill_q8(made *m) {
    size_t n_blocks = (size_t)m->w.rows * (size_t)m->w.cols / 32;
    unsigned char *bytes = malloc(n_blocks * 34);
    for (size_t b = 0; b < n_blocks; b++) {
        uint16_t half = (uint16_t)(tt_rng_bits(1, 6, b) & 0xa3ff); /* below 2^-6 in size */
        memcpy(bytes + b * 34, &half, 2);
        for (size_t i = 0; i < 32; i++) {
            int8_t code = (int8_t)tt_rng_bits(1, 7, b * 32 + i);
            bytes[b * 34 + 2 + i] = (unsigned char)code;
            m->value[b * 32 + i] = (float)(half_value(half) * code);
        }
    }
    m->w.data = bytes;
}

static void fill_plain(made *m) {
    size_t n = (size_t)m->w.rows * (size_t)m->w.cols;
    uint32_t bits;
    float *f = numbers_random(n, 3, 1.0);
    uint16_t *halves = malloc(n * sizeof *halves);
    for (size_t i = 0; i < n; i++) {
        halves[i] = (uint16_t)(tt_rng_bits(1, 8, i) & 0xbbff);
        if (m->w.dtype == TT_DTYPE_F16) f[i] = (float)half_value(halves[i]);
        if (m->w.dtype == TT_DTYPE_BF16) {
            memcpy(&bits, &f[i], sizeof bits);
            halves[i] = (uint16_t)(bits >> 16);
            bits &= 0xffff0000u;
            memcpy(&f[i], &bits, sizeof bits);
        }
    }
    memcpy(m->value, f, n * sizeof *f);
    m->w.data = m->w.dtype == TT_DTYPE_F32 ? (void *)f : halves;
    free(m->w.dtype == TT_DTYPE_F32 ? (void *)halves : f);
}

/* value holds rows in the matrix's order: row h D + s D/2 + i lies at h D + 2 i + s. */
static void interleave(made *m, int width) {
    size_t cols = (size_t)m->w.cols;
    float *in_file = m->value;
    m->value = malloc((size_t)m->w.rows * cols * sizeof(float));
    for (int h = 0; h < m->w.rows / width; h++)
        for (int s = 0; s < 2; s++)
            for (int i = 0; i < width / 2; i++)
                memcpy(m->value + (size_t)(h * width + s * width / 2 + i) * cols,
                       in_file + (size_t)(h * width + 2 * i + s) * cols, cols * sizeof(float));
    free(in_file);
    m->w.interleaved = width;
}

static made make(tt_dtype dtype, int rows, int cols, int interleaved) {
    made m = {.w = {.dtype = dtype, .rows = rows, .cols = cols},
              .value = malloc((size_t)rows * (size_t)cols * sizeof(float))};
    if (dtype == TT_DTYPE_F8_E4M3)
        fill_f8(&m, 7, 7, 0);
    else if (dtype == TT_DTYPE_Q8_0)
        fill_q8(&m);
    else
        fill_plain(&m);
    if (interleaved) interleave(&m, interleaved);
    return m;
}

static made make_f8(int rows, int cols, int row_shift, int col_shift, int skip) {
    made m = {.w = {.dtype = TT_DTYPE_F8_E4M3, .rows = rows, .cols = cols},
              .value = malloc((size_t)rows * (size_t)cols * sizeof(float))};
    fill_f8(&m, row_shift, col_shift, skip);
    return m;
}

static void discard(made *m) {
    free((void *)(uintptr_t)m->w.data);
    free(m->scale);
    free(m->value);
}

static void check_widening(const made *m) {
    size_t cols = (size_t)m->w.cols, n = (size_t)m->w.rows * cols;
    float *got = malloc(n * sizeof *got);
    tt_gemm_widen_rows(&m->w, 0, m->w.rows, got);
    assert_memory_equal(got, m->value, n * sizeof *got);
    int col = m->w.cols / 3, row = m->w.rows / 2, count = m->w.cols - col;
    tt_gemm_widen_span(&m->w, row, col, count, got);
    assert_memory_equal(got, m->value + (size_t)row * cols + (size_t)col,
                        (size_t)count * sizeof *got);
    free(got);
}

/* Forward and backward, with the kernel's own threads, equal those of the F32 matrix. */
static void check_products(tt_gemm *gemm, const made *m, int tokens) {
    size_t n_y = (size_t)tokens * (size_t)m->w.rows, n_dx = (size_t)tokens * (size_t)m->w.cols;
    tt_matrix plain = {.data = m->value, TT_DTYPE_F32, m->w.rows, m->w.cols};
    float *x = numbers_random(n_dx, 11, 1.0), *dy = numbers_random(n_y, 12, 1.0);
    float *out[2] = {malloc((n_y + n_dx) * sizeof(float)), malloc((n_y + n_dx) * sizeof(float))};
    for (int i = 0; i < 2; i++) {
        tt_gemm_forward(gemm, tokens, x, i ? &m->w : &plain, NULL, false, out[i]);
        tt_gemm_backward(gemm, tokens, dy, i ? &m->w : &plain, false, out[i] + n_y);
    }
    assert_memory_equal(out[0], out[1], (n_y + n_dx) * sizeof(float));
    free(out[0]), free(out[1]), free(x), free(dy);
}

static void check_all(const made *m) {
    static const struct {
        const tt_gemm_kernel *kernel;
        int n_threads;
    } runs[] = {
        {&tt_gemm_kernel_base, 1},
#ifdef __x86_64__
        {&tt_gemm_kernel_avx2, 1},
        {&tt_gemm_kernel_avx512, 1},
        {&tt_gemm_kernel_avx512, 2},
#endif
    };
    check_widening(m);
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++) {
        if (runs[i].kernel->width > tt_gemm_best_kernel()->width) continue;
        tt_gemm *gemm;
        assert_int_equal(tt_gemm_create(runs[i].n_threads, &gemm, NULL), TT_OK);
        gemm->kernel = runs[i].kernel;
        for (int tokens = 1; tokens <= 21; tokens += 20) check_products(gemm, m, tokens);
        tt_gemm_destroy(gemm);
    }
}

static void products_equal_those_of_fp32(void **state) {
    (void)state;
    static const int shapes[][2] = {{1, 32},    {5, 64},     {33, 96},   {100, 128},
                                    {257, 384}, {300, 1504}, {70, 1056}, {700, 32}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        made q8 = make(TT_DTYPE_Q8_0, shapes[i][0], shapes[i][1], 0);
        check_all(&q8);
        discard(&q8);
        made f8 = make(TT_DTYPE_F8_E4M3, shapes[i][0], shapes[i][1] - 3, 0);
        check_all(&f8);
        discard(&f8);
    }
}

static void factors_may_be_of_rows_blocks_or_one(void **state) {
    (void)state;
    static const int kinds[][3] = {{31, 31, 0}, {0, 31, 0}, {7, 7, 0},
                                   {7, 7, 100}, {6, 6, 63}, {3, 8, 5}};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        made m = make_f8(210, 600, kinds[i][0], kinds[i][1], kinds[i][2]);
        check_all(&m);
        discard(&m);
    }
}

static void interleaved_rows_are_found(void **state) {
    (void)state;
    static const tt_dtype dtypes[] = {TT_DTYPE_F32, TT_DTYPE_BF16, TT_DTYPE_F16, TT_DTYPE_Q8_0};
    for (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0]; d++)
        for (int width = 2; width <= 48; width += 46) {
            made m = make(dtypes[d], 144, 544, width);
            check_all(&m);
            discard(&m);
        }
}

static void slices_are_matrices(void **state) {
    (void)state;
    enum { ROWS = 300, COLS = 160 };
    made all[] = {make(TT_DTYPE_F8_E4M3, ROWS, COLS, 0), make_f8(ROWS, COLS, 0, 31, 0),
                  make_f8(ROWS, COLS, 31, 31, 0),        make_f8(ROWS, COLS, 7, 7, 90),
                  make(TT_DTYPE_Q8_0, ROWS, COLS, 0),    make(TT_DTYPE_BF16, ROWS, COLS, 0),
                  make(TT_DTYPE_Q8_0, ROWS, COLS, 20)};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        for (int first = 0; first < ROWS; first += 60) {
            made part = {.w = tt_gemm_rows(&all[i].w, first, ROWS - first)};
            part.w = tt_gemm_rows(&part.w, 0, 60);
            part.value = all[i].value + first * COLS;
            assert_int_equal(part.w.rows, 60);
            check_all(&part);
        }
        discard(&all[i]);
    }
}

static void every_code_of_fp8_has_its_value(void **state) {
    (void)state;
    uint8_t codes[256];
    float factor = 0x1.8p-3f, got[256];
    for (int i = 0; i < 256; i++) codes[i] = (uint8_t)i;
    tt_matrix w = {codes, TT_DTYPE_F8_E4M3, 1, 256, .scale = &factor, .scale_row_shift = 31};
    w.scale_col_shift = 31;
    float one = 1.0f, products[256];
    tt_gemm *gemm;
    assert_int_equal(tt_gemm_create(1, &gemm, NULL), TT_OK);
    tt_gemm_widen_rows(&w, 0, 1, got);
    tt_gemm_backward(gemm, 1, &one, &w, false, products);
    for (int i = 0; i < 256; i++) {
        double want = e4m3_value((uint8_t)i) * 0.1875;
        if (isnan(want)) {
            assert_true(isnan(got[i]) && isnan(products[i]));
            continue;
        }
        assert_true((double)got[i] == want && (double)products[i] == want);
        assert_int_equal(signbit(got[i]) != 0, i >> 7);
    }
    assert_true(got[0x7e] == 448.0f * factor && got[1] == 0x1p-9f * factor);
    tt_gemm_destroy(gemm);
}

/* Every fp16 factor, subnormals, infinities and NaNs too, with the ends and middle of int8. */
static void every_factor_of_q8_has_its_value(void **state) {
    (void)state;
    static const int8_t codes[4] = {-128, 0, 1, 127};
    unsigned char *bytes = calloc(65536, 34);
    float *got = malloc(65536 * 32 * sizeof *got), *product = malloc(65536 * 32 * sizeof *product);
    for (int h = 0; h < 65536; h++) {
        uint16_t half = (uint16_t)h;
        memcpy(bytes + h * 34, &half, 2);
        for (int i = 0; i < 32; i++) bytes[h * 34 + 2 + i] = (unsigned char)codes[i % 4];
    }
    tt_matrix w = {bytes, TT_DTYPE_Q8_0, 1, 65536 * 32};
    float one = 1.0f;
    tt_gemm *gemm;
    assert_int_equal(tt_gemm_create(1, &gemm, NULL), TT_OK);
    tt_gemm_widen_rows(&w, 0, 1, got);
    tt_gemm_backward(gemm, 1, &one, &w, false, product);
    for (int i = 0; i < 65536 * 32; i++) {
        double want = half_value((uint16_t)(i / 32)) * codes[i % 4];
        bool same = isnan(want) ? isnan(got[i]) && isnan(product[i])
                                : (double)got[i] == want && (double)product[i] == want;
        if (!same) fail_msg("factor %04x, code %d: %g", i / 32, codes[i % 4], (double)got[i]);
    }
    free(bytes), free(got), free(product);
    tt_gemm_destroy(gemm);
}

/* The embedding, the head's loss and its target rows, on a table of several chunks. */
static void embedding_and_head_read_blocks(void **state) {
    (void)state;
    enum { VOCAB = 2100, HIDDEN = 96, N = 5 };
    static const int32_t ids[N] = {0, 1023, 1024, 2099, 1500};
    static const float scales[N] = {0.5f, 0.5f, 0.25f, 0.5f, 1.0f};
    static const tt_dtype dtypes[] = {TT_DTYPE_F8_E4M3, TT_DTYPE_Q8_0};
    tt_gemm *gemm;
    assert_int_equal(tt_gemm_create(2, &gemm, NULL), TT_OK);
    void *scratch = malloc(tt_ops_head_scratch_bytes(N));
    for (int d = 0; d < 2; d++) {
        made m = make(dtypes[d], VOCAB, HIDDEN, 0);
        tt_matrix plain = {m.value, TT_DTYPE_F32, VOCAB, HIDDEN};
        float rows[2][N * HIDDEN], d_x[2][N * HIDDEN], *x = numbers_random(N * HIDDEN, 9, 1.0);
        double loss[2][N];
        for (int i = 0; i < 2; i++) {
            const tt_matrix *w = i ? &m.w : &plain;
            const tt_head head = {.w = w, .scale = 1.0f};
            tt_ops_embed(N, ids, w, rows[i]);
            tt_ops_head_loss(gemm, N, x, &head, ids, scales, loss[i], NULL, d_x[i], scratch);
        }
        assert_memory_equal(rows[0], rows[1], sizeof rows[0]);
        assert_memory_equal(loss[0], loss[1], sizeof loss[0]);
        assert_memory_equal(d_x[0], d_x[1], sizeof d_x[0]);
        discard(&m);
        free(x);
    }
    free(scratch);
    tt_gemm_destroy(gemm);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_of_fp8_has_its_value),
        cmocka_unit_test(every_factor_of_q8_has_its_value),
        cmocka_unit_test(products_equal_those_of_fp32),
        cmocka_unit_test(factors_may_be_of_rows_blocks_or_one),
        cmocka_unit_test(interleaved_rows_are_found),
        cmocka_unit_test(slices_are_matrices),
        cmocka_unit_test(embedding_and_head_read_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
