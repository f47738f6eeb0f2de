#include "gemm_private.h"

#include <blis.h>
#include <limits.h>
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PANEL_ROWS = 256 };

/* BLIS reads BLIS_ARCH_TYPE (a number of its own arch_t) once, when it is initialised. */
static void start_blis(void) {
#if (defined(__x86_64__) || defined(__i386__)) && defined(BLIS_CONFIG_SKX)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
        char id[16];
        snprintf(id, sizeof id, "%d", (int)BLIS_ARCH_SKX);
        setenv("BLIS_ARCH_TYPE", id, 0);
    }
#endif
    bli_init();
}

size_t tt_gemm_bytes(int n_threads, int max_cols) {
    const size_t blis_per_thread = (size_t)2 << 20, blis_shared = (size_t)6 << 20;
    return sizeof(tt_gemm) + (size_t)PANEL_ROWS * (size_t)max_cols * sizeof(float) + blis_shared +
           (size_t)n_threads * blis_per_thread;
}

tt_status tt_gemm_create(int n_threads, int max_cols, tt_gemm **out, tt_error *err) {
    *out = NULL;
    if (n_threads < 1 || max_cols < 1)
        return tt_fail(err, TT_ERR_INTERNAL, "gemm: %d threads, %d columns: expected at least 1",
                       n_threads, max_cols);
    start_blis();
    tt_gemm *gemm = calloc(1, sizeof *gemm);
    if (!gemm) return tt_fail(err, TT_ERR_MEMORY, "no memory for the products' workspace");
    size_t n_bytes = (size_t)PANEL_ROWS * (size_t)max_cols * sizeof(float);
    gemm->panel = aligned_alloc(64, n_bytes);
    if (!gemm->panel) {
        free(gemm);
        return tt_fail(err, TT_ERR_MEMORY, "no memory for a weight panel of %zu bytes", n_bytes);
    }
    gemm->n_threads = n_threads;
    gemm->max_cols = max_cols;
    omp_set_num_threads(n_threads);
    *out = gemm;
    return TT_OK;
}

void tt_gemm_destroy(tt_gemm *gemm) {
    if (!gemm) return;
    free(gemm->panel);
    free(gemm);
}

int tt_gemm_n_threads(const tt_gemm *gemm) {
    return gemm->n_threads;
}

const char *tt_gemm_kernel_name(void) {
    start_blis();
    return bli_arch_string(bli_arch_query_id());
}

const char *tt_gemm_version(void) {
    return bli_info_get_version_str();
}

static float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void widen_bf16(const uint16_t *in, size_t n, float *out) {
#pragma omp simd
    for (size_t i = 0; i < n; i++) out[i] = from_bits((uint32_t)in[i] << 16);
}

/* Exponent and mantissa moved to their fp32 places and rescaled by 2^(127-15), which also turns
 * fp16 subnormals into the normal fp32 numbers they are; infinities and NaNs keep all ones. */
static void widen_f16(const uint16_t *in, size_t n, float *out) {
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        uint32_t sign = (uint32_t)(in[i] & 0x8000u) << 16;
        uint32_t magnitude = in[i] & 0x7fffu;
        float scaled = from_bits(magnitude << 13) * 0x1p112f;
        uint32_t bits;
        memcpy(&bits, &scaled, sizeof bits);
        bits |= magnitude >= 0x7c00u ? 0x7f800000u : 0u;
        out[i] = from_bits(bits | sign);
    }
}

size_t tt_gemm_element_bytes(tt_dtype dtype) {
    return dtype == TT_DTYPE_F32 ? sizeof(float) : sizeof(uint16_t);
}

void tt_gemm_widen(tt_dtype dtype, const void *data, size_t first, size_t n, float *out) {
    if (dtype == TT_DTYPE_BF16)
        widen_bf16((const uint16_t *)data + first, n, out);
    else if (dtype == TT_DTYPE_F16)
        widen_f16((const uint16_t *)data + first, n, out);
    else
        memcpy(out, (const float *)data + first, n * sizeof *out);
}

void tt_gemm_widen_rows(const tt_matrix *w, int first, int n_rows, float *out) {
    size_t cols = (size_t)w->cols;
#pragma omp parallel for if (cols * (size_t)n_rows > 65536)
    for (int row = 0; row < n_rows; row++)
        tt_gemm_widen(w->dtype, w->data, (size_t)(first + row) * cols, cols,
                      out + (size_t)row * cols);
}

void tt_gemm_f32(int n_threads, bool trans_a, bool trans_b, int m, int n, int k, float alpha,
                 const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc) {
    rntm_t runtime = BLIS_RNTM_INITIALIZER;
    bli_rntm_set_num_threads(n_threads, &runtime);
    /* BLIS's typed interface takes no const pointers; it does not write to a and b. */
    bli_sgemm_ex(trans_a ? BLIS_TRANSPOSE : BLIS_NO_TRANSPOSE,
                 trans_b ? BLIS_TRANSPOSE : BLIS_NO_TRANSPOSE, m, n, k, &alpha, (float *)a, lda, 1,
                 (float *)b, ldb, 1, &beta, c, ldc, 1, NULL, &runtime);
}

/* Rows [first, first + n) of w in fp32: the mapped bytes themselves, or widened into the panel. */
static const float *panel_of(tt_gemm *gemm, const tt_matrix *w, int first, int n) {
    if (w->dtype == TT_DTYPE_F32) return (const float *)w->data + (size_t)first * (size_t)w->cols;
    tt_gemm_widen_rows(w, first, n, gemm->panel);
    return gemm->panel;
}

static void add_bias(int n_tokens, int n, const float *bias, float *y) {
    for (int t = 0; t < n_tokens; t++)
        for (int i = 0; i < n; i++) y[(size_t)t * (size_t)n + (size_t)i] += bias[i];
}

void tt_gemm_forward(tt_gemm *gemm, int n_tokens, const float *x, const tt_matrix *w,
                     const float *bias, bool accumulate, float *y) {
    for (int first = 0; first < w->rows; first += PANEL_ROWS) {
        int n = w->rows - first < PANEL_ROWS ? w->rows - first : PANEL_ROWS;
        const float *panel = panel_of(gemm, w, first, n);
        tt_gemm_f32(gemm->n_threads, false, true, n_tokens, n, w->cols, 1.0f, x, w->cols, panel,
                    w->cols, accumulate ? 1.0f : 0.0f, y + first, w->rows);
    }
    if (bias) add_bias(n_tokens, w->rows, bias, y);
}

void tt_gemm_backward(tt_gemm *gemm, int n_tokens, const float *dy, const tt_matrix *w,
                      bool accumulate, float *dx) {
    for (int first = 0; first < w->rows; first += PANEL_ROWS) {
        int n = w->rows - first < PANEL_ROWS ? w->rows - first : PANEL_ROWS;
        const float *panel = panel_of(gemm, w, first, n);
        tt_gemm_f32(gemm->n_threads, false, false, n_tokens, w->cols, n, 1.0f, dy + first, w->rows,
                    panel, w->cols, accumulate || first > 0 ? 1.0f : 0.0f, dx, w->cols);
    }
}
