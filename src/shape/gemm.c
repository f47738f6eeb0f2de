#include "gemm_private.h"

#include <limits.h>
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Below this many multiply-adds a product is over before other threads have woken up. */
#define PARALLEL_MIN 1e6

bool tt_gemm_has_avx512(void) {
#ifdef __x86_64__
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#else
    return false;
#endif
}

/* BLIS packs a block of a (480 x 384, each thread's) and a panel of b (384 x at most 3072) and
 * touches as much of its buffers as a product fills. */
size_t tt_gemm_bytes(int n_threads, int max_cols) {
    size_t panel_cols = max_cols < 3072 ? (size_t)max_cols : 3072;
    size_t blis_shared = 384 * panel_cols * sizeof(float), blis_per_thread = 480 * 384 * 4;
    return sizeof(tt_gemm) + blis_shared +
           (size_t)n_threads * (blis_per_thread + TT_GEMM_PACKED_FLOATS * sizeof(float));
}

const tt_gemm_kernel *tt_gemm_best_kernel(void) {
#ifdef __x86_64__
    if (tt_gemm_has_avx512()) return &tt_gemm_kernel_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &tt_gemm_kernel_avx2;
#endif
    return &tt_gemm_kernel_base;
}

tt_status tt_gemm_create(int n_threads, tt_gemm **out, tt_error *err) {
    *out = NULL;
    if (n_threads < 1)
        return tt_fail(err, TT_ERR_INTERNAL, "gemm: %d threads, expected at least 1", n_threads);
    tt_gemm_start_blas();
    tt_gemm *gemm = calloc(1, sizeof *gemm);
    if (!gemm) return tt_fail(err, TT_ERR_MEMORY, "no memory for the products' workspace");
    size_t n_bytes = (size_t)n_threads * TT_GEMM_PACKED_FLOATS * sizeof(float);
    gemm->packed = aligned_alloc(64, n_bytes);
    if (!gemm->packed) {
        free(gemm);
        return tt_fail(err, TT_ERR_MEMORY, "no memory for a product workspace of %zu bytes",
                       n_bytes);
    }
    gemm->n_threads = n_threads;
    gemm->kernel = tt_gemm_best_kernel();
    omp_set_num_threads(n_threads);
    *out = gemm;
    return TT_OK;
}

void tt_gemm_destroy(tt_gemm *gemm) {
    if (!gemm) return;
    free(gemm->rounded);
    free(gemm->packed);
    free(gemm);
}

float *tt_gemm_packed(const tt_gemm *gemm) {
    return gemm->packed + (size_t)omp_get_thread_num() * TT_GEMM_PACKED_FLOATS;
}

int tt_gemm_n_threads(const tt_gemm *gemm) {
    return gemm->n_threads;
}

const char *tt_gemm_own_kernel_name(void) {
    return tt_gemm_best_kernel()->name;
}

double tt_gemm_burst(int64_t n_rounds) {
    return tt_gemm_best_kernel()->burst(n_rounds);
}

tt_gemm_share tt_gemm_cut(const tt_gemm_share *whole, int width, int64_t n_threads,
                          int64_t thread) {
    tt_gemm_share share = *whole;
    int64_t n_vecs = (whole->n + width - 1) / width;
    if (n_vecs < n_threads && n_vecs < whole->n_rows) {
        int first = (int)(whole->n_rows * thread / n_threads);
        share.n_rows = (int)(whole->n_rows * (thread + 1) / n_threads) - first;
        share.x += (size_t)first * whole->x_row;
        share.y += (size_t)first * whole->y_ld;
        return share;
    }
    int end = (int)(n_vecs * (thread + 1) / n_threads) * width;
    share.first = (int)(n_vecs * thread / n_threads) * width;
    share.n = (end < whole->n ? end : whole->n) - share.first;
    return share;
}

bool tt_gemm_is_parallel(int n_rows, int n_outputs, int n_inner) {
    return (double)n_rows * n_outputs * n_inner > PARALLEL_MIN;
}

void tt_gemm_add_bias(const tt_gemm_share *share, const float *bias) {
    for (int t = 0; bias && t < share->n_rows; t++)
        for (int o = share->first; o < share->first + share->n; o++)
            share->y[(size_t)t * share->y_ld + (size_t)o] += bias[o];
}

static void multiply(const tt_gemm *gemm, const tt_gemm_share *whole, const float *bias) {
    if (gemm->bf16 && whole->w_dtype == TT_DTYPE_BF16) {
        tt_gemm_multiply_bf16(gemm, whole, bias);
        return;
    }
#pragma omp parallel num_threads(                                                                  \
    gemm->n_threads) if (tt_gemm_is_parallel(whole->n_rows, whole->n, whole->n_inner))
    {
        tt_gemm_share share =
            tt_gemm_cut(whole, gemm->kernel->width, omp_get_num_threads(), omp_get_thread_num());
        share.packed = tt_gemm_packed(gemm);
        gemm->kernel->multiply(&share);
        tt_gemm_add_bias(&share, bias);
    }
}

void tt_gemm_forward(tt_gemm *gemm, int n_tokens, const float *x, const tt_matrix *w,
                     const float *bias, bool accumulate, float *y) {
    const tt_gemm_share whole = {.w = w->data,
                                 .matrix = w,
                                 .w_dtype = w->dtype,
                                 .w_ld = (size_t)w->cols,
                                 .outputs_are_rows = true,
                                 .n_inner = w->cols,
                                 .x = x,
                                 .x_row = (size_t)w->cols,
                                 .n_rows = n_tokens,
                                 .y = y,
                                 .y_ld = (size_t)w->rows,
                                 .n = w->rows,
                                 .accumulate = accumulate};
    multiply(gemm, &whole, bias);
}

void tt_gemm_backward(tt_gemm *gemm, int n_tokens, const float *dy, const tt_matrix *w,
                      bool accumulate, float *dx) {
    const tt_gemm_share whole = {.w = w->data,
                                 .matrix = w,
                                 .w_dtype = w->dtype,
                                 .w_ld = (size_t)w->cols,
                                 .outputs_are_rows = false,
                                 .n_inner = w->rows,
                                 .x = dy,
                                 .x_row = (size_t)w->rows,
                                 .n_rows = n_tokens,
                                 .y = dx,
                                 .y_ld = (size_t)w->cols,
                                 .n = w->cols,
                                 .accumulate = accumulate};
    multiply(gemm, &whole, NULL);
}
