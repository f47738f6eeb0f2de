/* bf16 arithmetic: products of rounded x, against double; what stays fp32; whose bits are whose. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "../../src/shape/gemm_private.h"
#include "numbers.h"
#include "trimtab/round.h"

typedef struct shape {
    int tokens, rows, cols;
} shape;

/* As test_gemm.c's: edges of vectors, panels, tiles, pairs (odd sizes) and blocks. */
static const shape shapes[] = {
    {1, 1, 1},       {1, 5, 7},     {2, 33, 65},    {8, 100, 129},  {9, 64, 128},
    {12, 32, 16},    {13, 31, 17},  {37, 257, 384}, {64, 281, 385}, {9, 100, 2500},
    {30, 1213, 270}, {3, 2500, 40}, {701, 9, 300},  {701, 300, 9},
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

static uint16_t *stored(size_t n, uint64_t stream) {
    float *f = numbers_random(n, stream, 1.0);
    uint16_t *bits = malloc(n * sizeof *bits);
    for (size_t i = 0; i < n; i++) {
        uint32_t b;
        memcpy(&b, &f[i], sizeof b);
        bits[i] = (uint16_t)(b >> 16);
    }
    free(f);
    return bits;
}

static float value_of(uint16_t bits) {
    uint32_t b = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &b, sizeof value);
    return value;
}

/* A gemm that multiplies by this kernel whatever the CPU. */
static tt_gemm *gemm_with(const tt_gemm_kernel *kernel, int n_threads) {
    tt_gemm *gemm;
    assert_int_equal(tt_gemm_create(n_threads, &gemm, NULL), TT_OK);
    if (kernel && !gemm->rounded) gemm->rounded = aligned_alloc(64, tt_gemm_bf16_bytes());
    gemm->bf16 = kernel;
    return gemm;
}

/* Kernels that run here: the plain one always. */
static const tt_gemm_kernel *kernel_number(int i) {
    return i == 0 ? &tt_gemm_kernel_bf16_base : i == 1 ? tt_gemm_bf16_kernel() : NULL;
}

/* A sum of k products in fp32, in any order, is off by at most k 2^-24 of the sum of their sizes;
 * twice that for sums that are rounded once more where pieces meet. */
static void check_output(shape s, bool backward, int t, int o, const uint16_t *x, const uint16_t *w,
                         float start, float got) {
    int k = backward ? s.rows : s.cols;
    double sum = (double)start, size = fabs((double)start);
    for (int p = 0; p < k; p++) {
        size_t at = backward ? (size_t)p * s.cols + o : (size_t)o * s.cols + p;
        double product = (double)value_of(x[(size_t)t * k + p]) * (double)value_of(w[at]);
        sum += product;
        size += fabs(product);
    }
    double bound = 2.0 * (k + 2) * 0x1p-24 * size;
    if (!(fabs((double)got - sum) <= bound)) {
        print_error("%dx%dx%d %d (%d, %d): %g, want %g\n", s.tokens, s.rows, s.cols, backward, t, o,
                    (double)got, sum);
        fail();
    }
}

static void check_shape(tt_gemm *gemm, shape s) {
    uint16_t *w = stored((size_t)s.rows * s.cols, 3);
    float *bias = numbers_random(s.rows, 4, 1.0);
    tt_matrix m = {.data = w, .dtype = TT_DTYPE_BF16, .rows = s.rows, .cols = s.cols};
    for (int flags = 0; flags < 6; flags++) {
        bool backward = flags >= 4, accumulate = flags & 1, with_bias = flags & 2 && !backward;
        int n_in = backward ? s.rows : s.cols, n_out = backward ? s.cols : s.rows;
        size_t n_x = (size_t)s.tokens * n_in, n_y = (size_t)s.tokens * n_out;
        float *x = numbers_random(n_x, 5, 1.0), *y = numbers_random(n_y, 6, 1.0);
        float *before = malloc(n_y * sizeof *before);
        uint16_t *rounded = malloc((n_x + 1) * sizeof *rounded);
        tt_round_nearest(TT_DTYPE_BF16, n_x, x, rounded);
        memcpy(before, y, n_y * sizeof *y);
        if (!accumulate) memset(y, 0xff, n_y * sizeof *y); /* is not even read */
        if (backward)
            tt_gemm_backward(gemm, s.tokens, x, &m, accumulate, y);
        else
            tt_gemm_forward(gemm, s.tokens, x, &m, with_bias ? bias : NULL, accumulate, y);
        for (int t = 0; t<s.tokens; t += s.tokens> 100 ? 23 : 1)
            for (int o = 0; o < n_out; o++) {
                size_t at = (size_t)t * n_out + o;
                float start = (accumulate ? before[at] : 0) + (with_bias ? bias[o] : 0);
                check_output(s, backward, t, o, rounded, w, start, y[at]);
            }
        free(x), free(y), free(before), free(rounded);
    }
    free(w), free(bias);
}

static void products_are_those_of_rounded_x(void **state) {
    (void)state;
    for (int k = 0; kernel_number(k); k++) {
        for (int n_threads = 1; n_threads <= 2; n_threads++) {
            tt_gemm *gemm = gemm_with(kernel_number(k), n_threads);
            for (int i = 0; i < N_SHAPES; i++) check_shape(gemm, shapes[i]);
            tt_gemm_destroy(gemm);
        }
    }
}

/* Few rows or all, one thread or two, x rounded in one go or in pieces: the same bits. */
static void check_bits(const tt_gemm_kernel *kernel, shape s, int some) {
    size_t n_y = (size_t)s.tokens * s.rows, n_x = (size_t)s.tokens * s.cols;
    uint16_t *w = stored((size_t)s.rows * s.cols, 1);
    tt_matrix m = {.data = w, .dtype = TT_DTYPE_BF16, .rows = s.rows, .cols = s.cols};
    float *x = numbers_random(n_x, 2, 1.0), *y[2], *dx[2];
    for (int i = 0; i < 2; i++) {
        tt_gemm *gemm = gemm_with(kernel, i + 1);
        y[i] = malloc(n_y * sizeof(float)), dx[i] = malloc(n_x * sizeof(float));
        tt_gemm_forward(gemm, s.tokens, x, &m, NULL, false, y[i]);
        tt_gemm_backward(gemm, s.tokens, y[0], &m, false, dx[i]);
        if (i == 1) {
            tt_gemm_forward(gemm, some, x, &m, NULL, false, y[1]);
            tt_gemm_backward(gemm, some, y[0], &m, false, dx[1]);
        }
        tt_gemm_destroy(gemm);
    }
    assert_memory_equal(y[0], y[1], n_y * sizeof(float));
    assert_memory_equal(dx[0], dx[1], n_x * sizeof(float));
    for (int i = 0; i < 2; i++) free(y[i]), free(dx[i]);
    free(x), free(w);
}

static void bits_do_not_depend_on_company(void **state) {
    (void)state;
    for (int k = 0; kernel_number(k); k++) {
        check_bits(kernel_number(k), (shape){101, 300, 2300}, 13);
        check_bits(kernel_number(k), (shape){701, 8, 300}, 13);
        check_bits(kernel_number(k), (shape){701, 300, 9}, 650);
        check_bits(kernel_number(k), (shape){TT_GEMM_ROUNDED_ROWS + 77, 37, 1501}, 300);
        check_bits(kernel_number(k), (shape){TT_GEMM_ROUNDED_ROWS + 77, 1501, 7}, 300);
    }
}

/* Heads of 6 rows whose halves alternate in the file; a slice of whole heads; odd addresses. */
static void rows_are_found_where_they_lie(void **state) {
    (void)state;
    enum { HEAD = 6, ROWS = 66, COLS = 75, TOKENS = 11, FIRST = 12, SOME = 48 };
    uint16_t *w = stored((size_t)ROWS * COLS, 7), *moved = malloc((ROWS * COLS + 1) * sizeof *w);
    for (int r = 0; r < ROWS; r++) {
        int within = r % HEAD, half = HEAD / 2;
        int at = r - within + (within < half ? 2 * within : 2 * (within - half) + 1);
        memcpy(moved + 1 + (size_t)at * COLS, w + (size_t)r * COLS, COLS * sizeof *w);
    }
    tt_matrix plain = {.data = w, .dtype = TT_DTYPE_BF16, .rows = ROWS, .cols = COLS};
    tt_matrix woven = {
        .data = moved + 1, .dtype = TT_DTYPE_BF16, .rows = ROWS, .cols = COLS, .interleaved = HEAD};
    float *x = numbers_random(TOKENS * COLS, 8, 1.0), y[2][TOKENS * ROWS], dx[2][TOKENS * COLS];
    for (int k = 0; kernel_number(k); k++) {
        tt_gemm *gemm = gemm_with(kernel_number(k), 2);
        for (int part = 0; part < 2; part++) {
            for (int i = 0; i < 2; i++) {
                tt_matrix m = i ? woven : plain;
                if (part) m = tt_gemm_rows(&m, FIRST, SOME);
                memset(y[i], 0, sizeof y[i]);
                tt_gemm_forward(gemm, TOKENS, x, &m, NULL, false, y[i]);
                tt_gemm_backward(gemm, TOKENS, y[0], &m, false, dx[i]);
            }
            assert_memory_equal(y[0], y[1], sizeof y[0]);
            assert_memory_equal(dx[0], dx[1], sizeof dx[0]);
        }
        tt_gemm_destroy(gemm);
    }
    free(x), free(w), free(moved);
}

/* Matrices of other types, and products that say so, are what they are without. */
static void the_rest_stays_fp32(void **state) {
    (void)state;
    enum { ROWS = 40, COLS = 70, TOKENS = 9 };
    float *x = numbers_random(TOKENS * COLS, 1, 1.0), *f32 = numbers_random(ROWS * COLS, 2, 1.0);
    uint16_t *bits = stored((size_t)ROWS * COLS, 3);
    tt_matrix w = {.data = bits, .dtype = TT_DTYPE_BF16, .rows = ROWS, .cols = COLS};
    tt_matrix other = {.data = f32, .dtype = TT_DTYPE_F32, .rows = ROWS, .cols = COLS};
    float y[3][TOKENS * ROWS], z[2][TOKENS * ROWS];
    for (int i = 0; i < 2; i++) {
        tt_gemm *gemm = gemm_with(i ? &tt_gemm_kernel_bf16_base : NULL, 1);
        assert_true(tt_gemm_uses_bf16(gemm) == (i == 1));
        tt_gemm_forward_fp32(gemm, TOKENS, x, &w, NULL, false, y[i]);
        tt_gemm_forward(gemm, TOKENS, x, &w, NULL, false, y[2]);
        tt_gemm_forward(gemm, TOKENS, x, &other, NULL, false, z[i]);
        tt_gemm_destroy(gemm);
    }
    assert_memory_equal(y[0], y[1], sizeof y[0]);
    assert_memory_equal(z[0], z[1], sizeof z[0]);
    assert_memory_not_equal(y[0], y[2], sizeof y[0]);
    free(x), free(f32), free(bits);
}

/* Ties, carries into the exponent, overflow, subnormals, infinities and NaNs. */
static void rounding_is_to_nearest_even(void **state) {
    (void)state;
    static const uint32_t special[] = {
        0x00000000, 0x80000000, 0x3f800000, 0x3f808000, 0x3f818000, 0x3f808001, 0x3f807fff,
        0x3fff8000, 0x7f7fffff, 0xff7f8000, 0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001,
        0xffffffff, 0x00000001, 0x00008000, 0x807fffff, 0x00018000,
    };
    enum { N_SPECIAL = sizeof special / sizeof special[0], N = 5001 };
    float *x = numbers_random(N, 1, 100.0);
    uint16_t got[N + 1], want[N + 1] = {0};
    memcpy(x, special, sizeof special);
    tt_gemm_round(x, N, got);
    tt_round_nearest(TT_DTYPE_BF16, N, x, want);
    assert_memory_equal(got, want, sizeof got);
    assert_int_equal(got[3], 0x3f80);
    assert_int_equal(got[4], 0x3f82);
    free(x);
}

static void a_cpu_without_is_told_so(void **state) {
    (void)state;
    tt_gemm *gemm;
    tt_error err = {0};
    assert_int_equal(tt_gemm_create(1, &gemm, NULL), TT_OK);
    assert_false(tt_gemm_uses_bf16(gemm));
    tt_status status = tt_gemm_use_bf16(gemm, &err);
    if (tt_gemm_has_bf16()) {
        assert_int_equal(status, TT_OK);
        assert_true(tt_gemm_uses_bf16(gemm));
        assert_true(tt_gemm_burst_bf16(10) > 0);
    } else {
        assert_int_equal(status, TT_ERR_USAGE);
        assert_non_null(strstr(err.text, "AVX-512 BF16"));
        assert_false(tt_gemm_uses_bf16(gemm));
        assert_true(tt_gemm_burst_bf16(10) == 0);
    }
    tt_gemm_destroy(gemm);
}

static void nonfinite_numbers_show(void **state) {
    (void)state;
    enum { N = 35 };
    uint16_t w[N * N] = {0};
    float x[N] = {0}, y[N];
    w[5 * N + N - 1] = 0x7fc0;
    tt_matrix m = {.data = w, .dtype = TT_DTYPE_BF16, .rows = N, .cols = N};
    for (int k = 0; kernel_number(k); k++) {
        tt_gemm *gemm = gemm_with(kernel_number(k), 1);
        tt_gemm_forward(gemm, 1, x, &m, NULL, false, y);
        assert_true(isnan(y[5]) && y[4] == 0 && y[6] == 0);
        tt_gemm_backward(gemm, 1, x, &m, false, y);
        assert_true(isnan(y[N - 1]) && y[N - 2] == 0);
        tt_gemm_destroy(gemm);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_those_of_rounded_x),
        cmocka_unit_test(bits_do_not_depend_on_company),
        cmocka_unit_test(rows_are_found_where_they_lie),
        cmocka_unit_test(the_rest_stays_fp32),
        cmocka_unit_test(rounding_is_to_nearest_even),
        cmocka_unit_test(a_cpu_without_is_told_so),
        cmocka_unit_test(nonfinite_numbers_show),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
