/* gemm: every product against a naive one in double, for every storage type. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "../../src/shape/gemm_private.h"
#include "numbers.h"

/* fp32 sums of at most 2500 products of values below 1: error grows with sqrt(k) * 2^-24. */
#define TOLERANCE 5e-6

typedef struct shape {
    int tokens, rows, cols;
} shape;

/* 1 row, decode sizes, odd sizes around every block edge, and one of several blocks each way. */
static const shape shapes[] = {
    {1, 1, 1},       {1, 5, 7},       {2, 33, 65},    {8, 100, 129},
    {9, 64, 128},    {12, 32, 16},    {13, 31, 17},   {37, 257, 384},
    {64, 281, 385},  {130, 500, 130}, {517, 70, 200}, {9, 100, 1500},
    {300, 213, 270}, {3, 1500, 40},   {701, 9, 300},  {701, 300, 9},
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0], N_DTYPES = 3 };
static const tt_dtype dtypes[N_DTYPES] = {TT_DTYPE_F32, TT_DTYPE_BF16, TT_DTYPE_F16};

/* Value of an fp16 bit pattern by its definition. */
static double half_value(uint16_t h) {
    int exponent = h >> 10 & 31, mantissa = h & 1023;
    double value = exponent == 0    ? ldexp(mantissa, -24)
                   : exponent == 31 ? (mantissa ? (double)NAN : HUGE_VAL)
                                    : ldexp(1024 + mantissa, exponent - 25);
    return h & 0x8000 ? -value : value;
}

/* Random stored elements below 1 in size, and their values. */
static void *stored(tt_dtype dtype, size_t n, uint64_t stream, double *value) {
    float *f = numbers_random(n, stream, 1.0);
    uint16_t *bits = malloc(n * sizeof *bits);
    for (size_t i = 0; i < n; i++) {
        if (dtype == TT_DTYPE_F32) {
            value[i] = (double)f[i];
        } else if (dtype == TT_DTYPE_BF16) {
            uint32_t b;
            memcpy(&b, &f[i], sizeof b);
            bits[i] = (uint16_t)(b >> 16);
            b &= 0xffff0000u;
            memcpy(&f[i], &b, sizeof b);
            value[i] = (double)f[i];
        } else {
            bits[i] = (uint16_t)(tt_rng_bits(1, stream, i) & 0xbbff); /* exponent below 15 */
            value[i] = half_value(bits[i]);
        }
    }
    if (dtype == TT_DTYPE_F32) {
        free(bits);
        return f;
    }
    free(f);
    return bits;
}

/* y[t][o] = start + sum_c x[t][c] w[o][c] (+ bias), or dx[t][c] = start + sum_o x[t][o] w[o][c]. */
static double *naive(shape s, bool backward, const float *x, const double *w, const float *bias,
                     const float *start) {
    int n_out = backward ? s.cols : s.rows, n_in = backward ? s.rows : s.cols;
    double *y = calloc((size_t)s.tokens * n_out, sizeof *y);
    for (int t = 0; t < s.tokens; t++) {
        double *out = y + t * n_out;
        for (int o = 0; o < n_out; o++)
            out[o] = (start ? (double)start[t * n_out + o] : 0.0) + (bias ? (double)bias[o] : 0.0);
        for (int row = 0; row < s.rows; row++) {
            const double *w_row = w + row * s.cols;
            double sum = 0, from = backward ? (double)x[t * n_in + row] : 0.0;
#pragma omp simd reduction(+ : sum)
            for (int i = 0; i < s.cols; i++) {
                if (backward)
                    out[i] += from * w_row[i];
                else
                    sum += (double)x[t * n_in + i] * w_row[i];
            }
            if (!backward) out[row] += sum;
        }
    }
    return y;
}

static void check_shape(tt_gemm *gemm, shape s, tt_dtype dtype) {
    double *value = malloc((size_t)s.rows * s.cols * sizeof *value);
    void *bytes = stored(dtype, (size_t)s.rows * s.cols, 3, value);
    tt_matrix w = {bytes, dtype, s.rows, s.cols};
    float *bias = numbers_random(s.rows, 4, 1.0);
    for (int flags = 0; flags < 6; flags++) {
        bool backward = flags >= 4, accumulate = flags & 1, with_bias = flags & 2 && !backward;
        size_t n = (size_t)s.tokens * (backward ? s.cols : s.rows);
        float *x = numbers_random((size_t)s.tokens * (backward ? s.rows : s.cols), 5, 1.0);
        float *y = numbers_random(n, 6, 1.0);
        double *want = naive(s, backward, x, value, with_bias ? bias : NULL, accumulate ? y : NULL);
        /* without accumulate the output must not even be read */
        if (!accumulate) memset(y, 0xff, n * sizeof *y);
        if (backward)
            tt_gemm_backward(gemm, s.tokens, x, &w, accumulate, y);
        else
            tt_gemm_forward(gemm, s.tokens, x, &w, with_bias ? bias : NULL, accumulate, y);
        assert_near(n, y, want, TOLERANCE);
        free(x);
        free(y);
        free(want);
    }
    free(bias);
    free(bytes);
    free(value);
}

static bool runs_here(const tt_gemm_kernel *kernel) {
    const tt_gemm_kernel *best = tt_gemm_best_kernel();
    return kernel->width <= best->width;
}

static void check_kernel(const tt_gemm_kernel *kernel, int n_threads) {
    tt_gemm *gemm;
    if (!runs_here(kernel)) return;
    assert_int_equal(tt_gemm_create(n_threads, &gemm, NULL), TT_OK);
    assert_int_equal(tt_gemm_n_threads(gemm), n_threads);
    gemm->kernel = kernel;
    for (int i = 0; i < N_SHAPES; i++)
        for (int d = 0; d < N_DTYPES; d++) check_shape(gemm, shapes[i], dtypes[d]);
    tt_gemm_destroy(gemm);
}

static void products_equal_naive(void **state) {
    (void)state;
    check_kernel(&tt_gemm_kernel_base, 1);
#ifdef __x86_64__
    check_kernel(&tt_gemm_kernel_avx2, 1);
    check_kernel(&tt_gemm_kernel_avx512, 1);
#endif
    check_kernel(tt_gemm_best_kernel(), 2);
    tt_gemm_destroy(NULL);
}

/* x and outputs may lie in wider rows. */
static void strided_shares_equal_naive(void **state) {
    (void)state;
    enum { ROWS = 21, INNER = 600, N = 50, LD = 61, FIRST = 7 };
    float *x = numbers_random((size_t)INNER * LD, 1, 1.0);
    float *w = numbers_random((size_t)INNER * LD, 2, 1.0), *y = numbers_random(ROWS * LD, 3, 1.0);
    float *packed = aligned_alloc(64, TT_GEMM_PACKED_FLOATS * sizeof(float)), got[ROWS * N];
    const tt_gemm_kernel *best = tt_gemm_best_kernel();
    tt_gemm_share s = {.w = w, .w_dtype = TT_DTYPE_F32, .w_ld = LD, .n_inner = INNER};
    s.x = x, s.x_row = INNER, s.n_rows = ROWS, s.y = y, s.y_ld = LD;
    s.first = FIRST, s.n = N, s.accumulate = true, s.packed = packed;
    double want[ROWS * N];
    for (int r = 0; r < ROWS; r++) {
        for (int o = 0; o < N; o++) {
            double sum = (double)y[r * LD + FIRST + o];
            for (int p = 0; p < INNER; p++)
                sum += (double)x[r * INNER + p] * (double)w[p * LD + FIRST + o];
            want[r * N + o] = sum;
        }
    }
    float before = y[FIRST - 1], after = y[FIRST + N];
    best->multiply(&s);
    for (int i = 0; i < ROWS * N; i++) got[i] = y[i / N * LD + FIRST + i % N];
    assert_near(ROWS * N, got, want, TOLERANCE);
    assert_true(y[FIRST - 1] == before && y[FIRST + N] == after);
    free(x), free(w), free(y), free(packed);
}

/* A misaligned view: tensors of a safetensors file are aligned to their element only. */
static void unaligned_weights_are_read(void **state) {
    (void)state;
    tt_gemm *gemm;
    assert_int_equal(tt_gemm_create(2, &gemm, NULL), TT_OK);
    shape s = {20, 67, 133};
    double value[67 * 133];
    uint16_t *bits = stored(TT_DTYPE_BF16, 67 * 133, 9, value),
             *moved = malloc(sizeof(uint16_t) * (67 * 133 + 1));
    memcpy(moved + 1, bits, sizeof(uint16_t) * 67 * 133);
    tt_matrix w = {moved + 1, TT_DTYPE_BF16, 67, 133};
    float *x = numbers_random(20 * 133, 1, 1.0), y[20 * 67];
    double *want = naive(s, false, x, value, NULL, NULL);
    tt_gemm_forward(gemm, 20, x, &w, NULL, false, y);
    assert_near(20 * 67, y, want, TOLERANCE);
    free(want);
    free(x);
    free(moved);
    free(bits);
    tt_gemm_destroy(gemm);
}

static void widening_is_exact(void **state) {
    (void)state;
    enum { N = 1 << 16 };
    uint16_t *all = malloc(N * sizeof *all);
    float *out = malloc(N * sizeof *out);
    for (int i = 0; i < N; i++) all[i] = (uint16_t)i;
    tt_matrix half = {all, TT_DTYPE_F16, 256, 256}, brain = {all, TT_DTYPE_BF16, 256, 256};
    tt_gemm_widen_rows(&half, 0, 256, out);
    for (int i = 0; i < N; i++) {
        double want = half_value((uint16_t)i);
        assert_true(isnan(want) ? isnan(out[i]) : (double)out[i] == want);
        assert_int_equal(signbit(out[i]) != 0, i >> 15);
    }
    tt_gemm_widen_rows(&brain, 3, 253, out);
    for (int i = 0; i < 253 * 256; i++) {
        uint32_t bits, want = (uint32_t)(i + 3 * 256) << 16;
        memcpy(&bits, &out[i], sizeof bits);
        assert_int_equal(bits, want);
    }
    free(all);
    free(out);
}

/* The promise of the header: an output's bits depend on its own row only. */
static void check_bits(shape s, int some) {
    size_t n_y = (size_t)s.tokens * s.rows, n_dx = (size_t)s.tokens * s.cols;
    double *value = malloc(sizeof(double) * s.rows * s.cols);
    void *bytes = stored(TT_DTYPE_BF16, (size_t)s.rows * s.cols, 1, value);
    tt_matrix w = {bytes, TT_DTYPE_BF16, s.rows, s.cols};
    float *x = numbers_random(n_dx, 2, 1.0);
    float *y[2] = {malloc(sizeof(float) * n_y), malloc(sizeof(float) * n_y)};
    float *dx[2] = {malloc(sizeof(float) * n_dx), malloc(sizeof(float) * n_dx)};
    for (int i = 0; i < 2; i++) {
        tt_gemm *gemm;
        assert_int_equal(tt_gemm_create(i + 1, &gemm, NULL), TT_OK);
        tt_gemm_forward(gemm, s.tokens, x, &w, NULL, false, y[i]);
        tt_gemm_backward(gemm, s.tokens, y[0], &w, false, dx[i]);
        if (i == 1) {
            tt_gemm_forward(gemm, some, x, &w, NULL, false, y[1]);
            tt_gemm_backward(gemm, some, y[0], &w, false, dx[1]);
        }
        tt_gemm_destroy(gemm);
    }
    assert_memory_equal(y[0], y[1], sizeof(float) * n_y);
    assert_memory_equal(dx[0], dx[1], sizeof(float) * n_dx);
    for (int i = 0; i < 2; i++) {
        free(y[i]);
        free(dx[i]);
    }
    free(x);
    free(bytes);
    free(value);
}

static void bits_do_not_depend_on_company(void **state) {
    (void)state;
    check_bits((shape){101, 600, 700}, 13);
    /* So few outputs, forward or backward, that rows are shared out. */
    check_bits((shape){701, 8, 300}, 13);
    check_bits((shape){701, 300, 8}, 650);
}

static void plain_products_equal_naive(void **state) {
    (void)state;
    enum { M = 37, N = 29, K = 53, LD = 64 };
    float *a = numbers_random((size_t)LD * LD, 1, 1.0),
          *b = numbers_random((size_t)LD * LD, 2, 1.0);
    for (int flags = 0; flags < 16; flags++) {
        bool ta = flags & 1, tb = flags & 2;
        float beta = flags & 4 ? 0.5f : 0.0f;
        float *c = numbers_random((size_t)LD * LD, 3, 1.0);
        if (beta == 0.0f) memset(c, 0xff, sizeof(float) * LD * LD);
        double want[M * N];
        float got[M * N];
        for (int i = 0; i < M; i++) {
            for (int j = 0; j < N; j++) {
                double sum = 0;
                for (int k = 0; k < K; k++)
                    sum += (double)(ta ? a[k * LD + i] : a[i * LD + k]) *
                           (double)(tb ? b[j * LD + k] : b[k * LD + j]);
                want[i * N + j] = -1.5 * sum + (beta != 0.0f ? (double)(beta * c[i * LD + j]) : 0);
            }
        }
        tt_gemm_f32(flags & 8 ? 2 : 1, ta, tb, M, N, K, -1.5f, a, LD, b, LD, beta, c, LD);
        for (int i = 0; i < M * N; i++) got[i] = c[i / N * LD + i % N];
        assert_near(M * N, got, want, TOLERANCE);
        free(c);
    }
    free(a);
    free(b);
}

static void nonfinite_weights_show(void **state) {
    (void)state;
    float weights[64 * 64] = {0}, x[20 * 64] = {0}, y[20 * 64];
    weights[5 * 64 + 3] = NAN;
    tt_matrix w = {weights, TT_DTYPE_F32, 64, 64};
    tt_gemm *gemm;
    assert_int_equal(tt_gemm_create(1, &gemm, NULL), TT_OK);
    for (int tokens = 1; tokens <= 20; tokens += 19) {
        tt_gemm_forward(gemm, tokens, x, &w, NULL, false, y);
        assert_true(isnan(y[5]));
        assert_true(y[4] == 0.0f);
        tt_gemm_backward(gemm, tokens, x, &w, false, y);
        assert_true(isnan(y[3]));
    }
    tt_gemm_destroy(gemm);
}

static void the_widest_kernels_run(void **state) {
    (void)state;
    bool user_chose = getenv("BLIS_ARCH_TYPE") || !tt_gemm_is_blis();
    const char *name = tt_gemm_kernel_name();
    assert_true(strlen(tt_gemm_version()) > 0);
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && !user_chose)
        assert_string_equal(name, "skx");
#endif
    assert_true(strlen(name) > 0);
    assert_true(strlen(tt_gemm_own_kernel_name()) > 0);
}

static void bad_sizes_are_refused(void **state) {
    (void)state;
    tt_gemm *gemm = (tt_gemm *)1;
    tt_error err = {0};
    assert_int_equal(tt_gemm_create(0, &gemm, &err), TT_ERR_INTERNAL);
    assert_null(gemm);
    assert_true(tt_gemm_bytes(2, 64) > tt_gemm_bytes(1, 64));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_widest_kernels_run),
        cmocka_unit_test(products_equal_naive),
        cmocka_unit_test(unaligned_weights_are_read),
        cmocka_unit_test(widening_is_exact),
        cmocka_unit_test(strided_shares_equal_naive),
        cmocka_unit_test(bits_do_not_depend_on_company),
        cmocka_unit_test(plain_products_equal_naive),
        cmocka_unit_test(nonfinite_weights_show),
        cmocka_unit_test(bad_sizes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
