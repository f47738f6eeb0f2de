/* svd: known decompositions, what defines a decomposition for random matrices of every shape and
 * storage type, both ways of computing it, and the cache on disk. */
#define _GNU_SOURCE /* dladdr */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "../../src/shape/svd_private.h"
#include "numbers.h"
#include "trimtab/file.h"

/* Results are fp32: 6e-8 of rounding a number, in sums of a few hundred. */
#define TOLERANCE 1e-6

static tt_gemm *gemm;

static int start(void **state) {
    (void)state;
    return tt_gemm_create(2, &gemm, NULL);
}

static int stop(void **state) {
    (void)state;
    tt_gemm_destroy(gemm);
    return 0;
}

/* A stored matrix and its values. */
typedef struct stored {
    tt_matrix w;
    double *value;
} stored;

/* Takes over x [rows x cols]. bf16: cut; fp16: values of x must be multiples of 1/64 below 16. */
static stored store(int rows, int cols, tt_dtype dtype, float *x) {
    size_t n = (size_t)rows * (size_t)cols;
    stored m = {{x, dtype, rows, cols}, malloc(n * sizeof(double))};
    uint16_t *half = (uint16_t *)x; /* written behind what is still to be read */
    for (size_t i = 0; i < n; i++) {
        float f = x[i];
        uint32_t bits;
        if (dtype == TT_DTYPE_BF16) {
            memcpy(&bits, &f, sizeof bits);
            memcpy(&half[i], (char *)&bits + 2, 2);
            bits &= 0xffff0000u;
            memcpy(&f, &bits, sizeof f);
        } else if (dtype == TT_DTYPE_F16) {
            int exponent;
            double fraction = frexp(fabs((double)f), &exponent);
            uint16_t h = f == 0
                             ? 0
                             : (uint16_t)(((exponent + 14) << 10) +
                                          ((int)(fraction * 2048) - 1024) + (f < 0 ? 0x8000 : 0));
            memcpy(&half[i], &h, 2);
        }
        m.value[i] = (double)f;
    }
    return m;
}

static stored random_matrix(int rows, int cols, tt_dtype dtype, uint64_t stream) {
    size_t n = (size_t)rows * (size_t)cols;
    float *x = numbers_random(n, stream, 1.0);
    if (dtype == TT_DTYPE_F16)
        for (size_t i = 0; i < n; i++) x[i] = roundf(x[i] * 64) / 64;
    return store(rows, cols, dtype, x);
}

static void drop(stored *m) {
    free((void *)m->w.data);
    free(m->value);
}

/* i-th entry of the j-th vector of the orthonormal cosine basis of n dimensions. */
static double cosine(int n, int j, int i) {
    return j == 0 ? sqrt(1.0 / n) : sqrt(2.0 / n) * cos(M_PI * (i + 0.5) * j / n);
}

/* The sum over j < n_terms of sigma[j] a_j b_j^T with cosine vectors (of other indices, so that not
 * everything begins with the constant one). */
static stored known_matrix(int rows, int cols, int n_terms, const double *sigma) {
    float *x = malloc((size_t)rows * (size_t)cols * sizeof *x);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++) {
            double sum = 0;
            for (int j = 0; j < n_terms; j++)
                sum += sigma[j] * cosine(rows, rows - 1 - j, r) * cosine(cols, j + 1, c);
            x[(size_t)r * (size_t)cols + (size_t)c] = (float)sum;
        }
    return store(rows, cols, TT_DTYPE_F32, x);
}

static double u_at(const tt_svd *s, int i, int j) {
    return (double)s->u[(size_t)i * (size_t)s->k + (size_t)j];
}

static double v_at(const tt_svd *s, int j, int i) {
    return (double)s->v[(size_t)j * (size_t)s->cols + (size_t)i];
}

static void assert_orthonormal(const tt_svd *s) {
    for (int a = 0; a < s->k; a++)
        for (int b = 0; b <= a; b++) {
            double u = 0, v = 0, want = a == b;
            for (int i = 0; i < s->rows; i++) u += u_at(s, i, a) * u_at(s, i, b);
            for (int i = 0; i < s->cols; i++) v += v_at(s, a, i) * v_at(s, b, i);
            if (fabs(u - want) > TOLERANCE || fabs(v - want) > TOLERANCE)
                fail_msg("[%d x %d] k %d: u_%d u_%d = %g, v_%d v_%d = %g", s->rows, s->cols, s->k,
                         a, b, u, a, b, v);
        }
}

/* W v_j = sigma_j u_j and u_j^T W = sigma_j v_j^T, sorted, and the signs. */
static void assert_triplets(const stored *m, const tt_svd *s) {
    double scale = (double)s->sigma[0] * TOLERANCE + 1e-30;
    for (int j = 0; j < s->k; j++) {
        double sigma = (double)s->sigma[j], largest = 0, first = 0;
        assert_true(s->sigma[j] >= 0 && (j == 0 || s->sigma[j] <= s->sigma[j - 1]));
        for (int r = 0; r < s->rows; r++) {
            double sum = 0;
            for (int c = 0; c < s->cols; c++)
                sum += m->value[(size_t)r * (size_t)s->cols + (size_t)c] * v_at(s, j, c);
            assert_true(fabs(sum - sigma * u_at(s, r, j)) <= scale);
            if (fabs(u_at(s, r, j)) > fabs(largest) * (1 + 1e-6)) largest = u_at(s, r, j);
        }
        first = largest;
        assert_true(first > 0);
        for (int c = 0; c < s->cols; c++) {
            double sum = 0;
            for (int r = 0; r < s->rows; r++)
                sum += m->value[(size_t)r * (size_t)s->cols + (size_t)c] * u_at(s, r, j);
            assert_true(fabs(sum - sigma * v_at(s, j, c)) <= scale);
        }
    }
}

/* What W is without its k largest parts has the rest of the squares. */
static double rest(const stored *m, const tt_svd *s) {
    double sum = 0;
    for (int r = 0; r < s->rows; r++)
        for (int c = 0; c < s->cols; c++) {
            double d = m->value[(size_t)r * (size_t)s->cols + (size_t)c];
            for (int j = 0; j < s->k; j++) d -= (double)s->sigma[j] * u_at(s, r, j) * v_at(s, j, c);
            sum += d * d;
        }
    return sqrt(sum);
}

static void test_triplets_of_every_shape_and_type(void **state) {
    (void)state;
    static const struct {
        int rows, cols, k;
    } shapes[] = {{1, 1, 1},    {1, 9, 1},      {9, 1, 1},     {7, 50, 7},     {50, 7, 7},
                  {20, 20, 20}, {40, 40, 10},   {33, 97, 8},   {97, 33, 8},    {33, 97, 9},
                  {97, 33, 9},  {64, 64, 1},    {40, 1200, 3}, {1200, 40, 10}, {130, 257, 32},
                  {65, 64, 16}, {300, 3600, 5}, {3600, 300, 5}};
    static const tt_dtype dtypes[] = {TT_DTYPE_F32, TT_DTYPE_BF16, TT_DTYPE_F16};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        stored m = random_matrix(shapes[i].rows, shapes[i].cols, dtypes[i % 3], i);
        tt_svd *s;
        tt_error err = {0};
        if (tt_svd_create(gemm, &m.w, shapes[i].k, &s, &err)) fail_msg("%s", err.text);
        assert_int_equal(s->k, shapes[i].k);
        assert_orthonormal(s);
        assert_triplets(&m, s);
        if (s->k == (s->rows < s->cols ? s->rows : s->cols))
            assert_true(rest(&m, s) < 1e-5 * (double)s->sigma[0]);
        tt_svd_destroy(s);
        drop(&m);
    }
}

/* The largest of all: both ways give the same numbers. Neighbouring singular values of a random
 * matrix are about 1 / r of the largest apart, so vectors differ by little more than rounding. */
static void test_both_ways_agree(void **state) {
    (void)state;
    static const int shapes[][2] = {{60, 60}, {48, 500}, {500, 48}, {200, 300}};
    for (size_t i = 0; i < 4; i++) {
        stored m = random_matrix(shapes[i][0], shapes[i][1], TT_DTYPE_BF16, 100 + i);
        int k = 12, n_u = m.w.rows * k, n_v = k * m.w.cols;
        tt_svd *a, *b;
        bool trusted;
        assert_int_equal(tt_svd_alloc(m.w.rows, m.w.cols, k, &a, NULL), TT_OK);
        assert_int_equal(tt_svd_alloc(m.w.rows, m.w.cols, k, &b, NULL), TT_OK);
        assert_int_equal(tt_svd_by_eigen(1, &m.w, a, &trusted, NULL), TT_OK);
        assert_true(trusted);
        assert_int_equal(tt_svd_by_all(&m.w, b, NULL), TT_OK);
        tt_svd_fix_signs(a);
        tt_svd_fix_signs(b);
        for (int j = 0; j < k; j++)
            assert_true(fabsf(a->sigma[j] - b->sigma[j]) <= 1e-6f * a->sigma[0]);
        for (int j = 0; j < n_u; j++) assert_true(fabsf(a->u[j] - b->u[j]) <= 1e-6f);
        for (int j = 0; j < n_v; j++) assert_true(fabsf(a->v[j] - b->v[j]) <= 1e-6f);
        tt_svd_destroy(a);
        tt_svd_destroy(b);
        drop(&m);
    }
}

static void check_known(int rows, int cols, int k) {
    static const double sigma[] = {30, 20, 12, 7, 4, 2, 1, 0.5};
    enum { N_TERMS = 8 };
    stored m = known_matrix(rows, cols, N_TERMS, sigma);
    tt_svd *s;
    assert_int_equal(tt_svd_create(gemm, &m.w, k, &s, NULL), TT_OK);
    assert_orthonormal(s);
    for (int j = 0; j < k; j++) {
        double want = j < N_TERMS ? sigma[j] : 0;
        assert_true(fabs((double)s->sigma[j] - want) < 1e-5);
        if (j >= N_TERMS) continue;
        double u = 0, v = 0; /* the cosine of the angle to the known vector: 1, or -1 for both */
        for (int i = 0; i < rows; i++) u += u_at(s, i, j) * cosine(rows, rows - 1 - j, i);
        for (int i = 0; i < cols; i++) v += v_at(s, j, i) * cosine(cols, j + 1, i);
        assert_true(fabs(fabs(u) - 1) < 1e-6 && fabs(u - v) < 1e-6);
    }
    tt_svd_destroy(s);
    drop(&m);
}

static void test_known_decompositions(void **state) {
    (void)state;
    check_known(40, 90, 8); /* by eigenvectors */
    check_known(90, 40, 8);
    check_known(20, 24, 8);  /* by all */
    check_known(64, 64, 12); /* fewer terms than asked for: what is left is zero */
    check_known(24, 20, 20);
}

static void test_diagonal_and_zero(void **state) {
    (void)state;
    float diagonal[3 * 4] = {0, -2, 0, 0, 0, 0, 3, 0, 0.5f, 0, 0, 0};
    tt_matrix w = {diagonal, TT_DTYPE_F32, 3, 4};
    tt_svd *s;
    assert_int_equal(tt_svd_create(gemm, &w, 3, &s, NULL), TT_OK);
    const float u[9] = {0, 1, 0, 1, 0, 0, 0, 0, 1};
    const float v[12] = {0, 0, 1, 0, 0, -1, 0, 0, 1, 0, 0, 0};
    const float sigma[3] = {3, 2, 0.5f};
    for (int i = 0; i < 3; i++) assert_true(fabsf(s->sigma[i] - sigma[i]) < 1e-6f);
    for (int i = 0; i < 9; i++) assert_true(fabsf(s->u[i] - u[i]) < 1e-6f);
    for (int i = 0; i < 12; i++) assert_true(fabsf(s->v[i] - v[i]) < 1e-6f);
    tt_svd_destroy(s);

    float *zeros = calloc(40 * 50, sizeof *zeros);
    w = (tt_matrix){zeros, TT_DTYPE_F32, 40, 50};
    assert_int_equal(tt_svd_create(gemm, &w, 5, &s, NULL), TT_OK);
    for (int j = 0; j < 5; j++) assert_true(s->sigma[j] == 0);
    assert_orthonormal(s);
    tt_svd_destroy(s);
    free(zeros);
}

static void test_threads_do_not_matter(void **state) {
    (void)state;
    stored m = random_matrix(256, 700, TT_DTYPE_F32, 9);
    tt_gemm *single;
    tt_svd *a, *b;
    assert_int_equal(tt_gemm_create(1, &single, NULL), TT_OK);
    assert_int_equal(tt_svd_create(single, &m.w, 16, &a, NULL), TT_OK);
    assert_int_equal(tt_svd_create(gemm, &m.w, 16, &b, NULL), TT_OK);
    for (size_t i = 0; i < 16 * (256 + 700 + 1); i++) {
        float size = i < 16 ? a->sigma[0] : 0.1f;
        assert_true(fabsf(a->sigma[i] - b->sigma[i]) <= 1e-7f * size);
    }
    tt_svd_destroy(a);
    tt_svd_destroy(b);
    tt_gemm_destroy(single);
    drop(&m);
}

static void test_what_cannot_be(void **state) {
    (void)state;
    tt_error err = {0};
    tt_svd *s = (tt_svd *)&err;
    stored m = random_matrix(12, 30, TT_DTYPE_F32, 3);
    assert_int_equal(tt_svd_create(gemm, &m.w, 13, &s, &err), TT_ERR_INTERNAL);
    assert_null(s);
    assert_int_equal(tt_svd_create(gemm, &m.w, 0, &s, &err), TT_ERR_INTERNAL);
    float *x = (float *)m.w.data;
    x[2 * 30 + 5] = NAN;
    assert_int_equal(tt_svd_create(gemm, &m.w, 2, &s, &err), TT_ERR_NUMERIC);
    assert_non_null(strstr(err.text, "(2, 5)"));
    x[2 * 30 + 5] = -INFINITY;
    assert_int_equal(tt_svd_create(gemm, &m.w, 12, &s, &err), TT_ERR_NUMERIC);
    assert_null(s);
    drop(&m);
    assert_true(tt_svd_bytes(2048, 8192, 32) > 2048u * 2048 * 8);
    assert_true(tt_svd_bytes(2048, 8192, 32) < 2048u * 8192 * 8);
    assert_true(tt_svd_bytes(2048, 8192, 2048) > 2048u * 8192 * 16);
    assert_true(tt_svd_bytes(2048, 8192, 2048) < 2048u * 8192 * 40);
    assert_true(tt_svd_bytes(2000000000, 2000000000, 1) == SIZE_MAX);
}

static void test_lapack_runs_in_blis(void **state) {
    (void)state;
    Dl_info info = {0};
    if (!tt_gemm_is_blis()) skip();
    for (int i = 0; i < 2; i++) {
        void *routine = dlsym(RTLD_DEFAULT, i ? "dgemv_" : "dgemm_");
        assert_non_null(routine);
        assert_true(dladdr(routine, &info) != 0);
        assert_non_null(strstr(info.dli_fname, "libblis"));
    }
}

static const char *temp_dir(void) {
    static char dir[64];
    snprintf(dir, sizeof dir, "/tmp/tt_test_svd.XXXXXX");
    assert_non_null(mkdtemp(dir));
    return dir;
}

static void test_cache_gives_back_the_bits(void **state) {
    (void)state;
    char sub[128], key[TT_SVD_KEY_BYTES], other[TT_SVD_KEY_BYTES];
    const char *dir = temp_dir();
    snprintf(sub, sizeof sub, "%s/svd", dir);
    stored m = random_matrix(30, 44, TT_DTYPE_BF16, 5);
    tt_svd *s, *back;
    tt_error err = {0};
    assert_int_equal(tt_svd_create(gemm, &m.w, 4, &s, NULL), TT_OK);
    tt_svd_key(&m.w, 4, key);
    assert_int_equal(tt_svd_load(sub, key, 30, 44, 4, &back, &err), TT_ERR_MISSING);
    assert_int_equal(tt_svd_save(sub, key, s, &err), TT_OK);
    assert_int_equal(tt_svd_save(sub, key, s, &err), TT_OK);
    assert_int_equal(tt_svd_load(sub, key, 30, 44, 4, &back, &err), TT_OK);
    assert_memory_equal(back->sigma, s->sigma, 4 * (30 + 44 + 1) * sizeof(float));
    assert_true(back->u == back->sigma + 4 && back->v == back->u + 30 * 4);
    tt_svd_destroy(back);
    assert_int_equal(tt_svd_load(sub, key, 44, 30, 4, &back, &err), TT_ERR_FORMAT);
    assert_int_equal(tt_svd_load(sub, key, 30, 44, 5, &back, &err), TT_ERR_FORMAT);
    assert_null(back);

    tt_svd_key(&m.w, 5, other);
    assert_string_not_equal(key, other);
    tt_matrix turned = {m.w.data, m.w.dtype, 44, 30}, half = {m.w.data, TT_DTYPE_F16, 30, 44};
    tt_svd_key(&turned, 4, other);
    assert_string_not_equal(key, other);
    tt_svd_key(&half, 4, other);
    assert_string_not_equal(key, other);
    ((unsigned char *)m.w.data)[30 * 44 * 2 - 1] ^= 1;
    tt_svd_key(&m.w, 4, other);
    assert_string_not_equal(key, other);
    tt_svd_destroy(s);
    drop(&m);
    assert_int_equal(tt_file_remove_tree(dir, NULL), TT_OK);
}

static void write_file(const char *path, const char *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void test_damaged_cache_is_seen(void **state) {
    (void)state;
    const char *dir = temp_dir(), *key = "k.safetensors";
    char path[128], *bytes;
    stored m = random_matrix(9, 12, TT_DTYPE_F32, 6);
    tt_svd *s, *back;
    tt_error err = {0};
    size_t n;
    assert_int_equal(tt_svd_create(gemm, &m.w, 2, &s, NULL), TT_OK);
    assert_int_equal(tt_svd_save(dir, key, s, &err), TT_OK);
    snprintf(path, sizeof path, "%s/%s", dir, key);
    assert_int_equal(tt_file_read_all(path, 0, &bytes, &n, &err), TT_OK);
    for (size_t i = 0; i < n; i++) {
        bytes[i] ^= 1;
        write_file(path, bytes, n);
        assert_int_equal(tt_svd_load(dir, key, 9, 12, 2, &back, &err), TT_ERR_FORMAT);
        assert_null(back);
        bytes[i] ^= 1;
    }
    for (size_t i = 0; i < n; i += 7) {
        write_file(path, bytes, i);
        assert_int_equal(tt_svd_load(dir, key, 9, 12, 2, &back, &err), TT_ERR_FORMAT);
    }
    write_file(path, bytes, n);
    assert_int_equal(tt_svd_load(dir, key, 9, 12, 2, &back, &err), TT_OK);
    tt_svd_destroy(back);
    free(bytes);
    tt_svd_destroy(s);
    drop(&m);
    assert_int_equal(tt_file_remove_tree(dir, NULL), TT_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_triplets_of_every_shape_and_type),
        cmocka_unit_test(test_both_ways_agree),
        cmocka_unit_test(test_known_decompositions),
        cmocka_unit_test(test_diagonal_and_zero),
        cmocka_unit_test(test_threads_do_not_matter),
        cmocka_unit_test(test_what_cannot_be),
        cmocka_unit_test(test_lapack_runs_in_blis),
        cmocka_unit_test(test_cache_gives_back_the_bits),
        cmocka_unit_test(test_damaged_cache_is_seen),
    };
    return cmocka_run_group_tests_name("svd", tests, start, stop);
}
