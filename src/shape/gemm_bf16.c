/* Products in bf16 arithmetic: x is rounded once, a piece at a time, for all threads. */
#include <omp.h>
#include <stdlib.h>

#include "gemm_private.h"

const tt_gemm_kernel *tt_gemm_bf16_kernel(void) {
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512bf16") && tt_gemm_best_kernel() == &tt_gemm_kernel_avx512)
        return &tt_gemm_kernel_bf16_avx512;
#endif
    return NULL;
}

bool tt_gemm_has_bf16(void) {
    return tt_gemm_bf16_kernel() != NULL;
}

size_t tt_gemm_bf16_bytes(void) {
    return TT_GEMM_ROUNDED_FLOATS * sizeof(float);
}

tt_status tt_gemm_use_bf16(tt_gemm *gemm, tt_error *err) {
    const tt_gemm_kernel *kernel = tt_gemm_bf16_kernel();
    if (!kernel)
        return tt_fail(err, TT_ERR_USAGE,
                       "products in bf16: found a CPU of kernels \"%s\" without AVX-512 BF16, "
                       "expected one with it",
                       tt_gemm_own_kernel_name());
    if (!gemm->rounded) gemm->rounded = aligned_alloc(64, tt_gemm_bf16_bytes());
    if (!gemm->rounded)
        return tt_fail(err, TT_ERR_MEMORY, "no memory for a product workspace of %zu bytes",
                       tt_gemm_bf16_bytes());
    gemm->bf16 = kernel;
    return TT_OK;
}

bool tt_gemm_uses_bf16(const tt_gemm *gemm) {
    return gemm->bf16 != NULL;
}

double tt_gemm_burst_bf16(int64_t n_rounds) {
    const tt_gemm_kernel *kernel = tt_gemm_bf16_kernel();
    return kernel ? kernel->burst(n_rounds) : 0;
}

void tt_gemm_forward_fp32(tt_gemm *gemm, int n_tokens, const float *x, const tt_matrix *w,
                          const float *bias, bool accumulate, float *y) {
    tt_gemm plain = *gemm;
    plain.bf16 = NULL;
    tt_gemm_forward(&plain, n_tokens, x, w, bias, accumulate, y);
}

static int smaller(int a, int b) {
    return a < b ? a : b;
}

/* Rows of x from element first_inner on, n elements each, into pairs: for the calling team. */
static void round_rows(const tt_gemm_share *whole, const tt_gemm_share *piece, int n,
                       float *rounded) {
#pragma omp for
    for (int r = 0; r < piece->n_rows; r++)
        tt_gemm_round(whole->x + (size_t)r * whole->x_row + (size_t)piece->first_inner, (size_t)n,
                      (uint16_t *)(rounded + (size_t)r * piece->x_row));
}

/* Rows of whole, all of it: as many elements at a time as rounded has place for. */
static void multiply_rows(const tt_gemm *gemm, const tt_gemm_share *whole, const float *bias) {
    int most =
        2 * (TT_GEMM_ROUNDED_STEPS / whole->n_rows / TT_GEMM_BLOCK_INNER) * TT_GEMM_BLOCK_INNER;
    tt_gemm_share piece = *whole;
    piece.x = gemm->rounded;
#pragma omp parallel num_threads(                                                                  \
    gemm->n_threads) if (tt_gemm_is_parallel(whole->n_rows, whole->n, whole->n_inner))             \
    firstprivate(piece)
    {
        int width = gemm->bf16->width, team = omp_get_num_threads(), me = omp_get_thread_num();
        tt_gemm_share share;
        for (int first = 0, n; first < whole->n_inner; first += n) {
            n = smaller(whole->n_inner - first, most);
            piece.first_inner = first;
            piece.n_inner = (n + 1) / 2;
            /* a line more: rows of a tile would all meet in the same few lines of the cache */
            piece.x_row = ((size_t)piece.n_inner + 15) / 16 * 16 + 16;
            piece.accumulate = whole->accumulate || first > 0;
            round_rows(whole, &piece, n, gemm->rounded); /* ends with a barrier */
            share = tt_gemm_cut(&piece, width, team, me);
            share.packed = tt_gemm_packed(gemm);
            gemm->bf16->multiply(&share);
            if (first + n == whole->n_inner) tt_gemm_add_bias(&share, bias);
#pragma omp barrier
        }
    }
}

void tt_gemm_multiply_bf16(const tt_gemm *gemm, const tt_gemm_share *whole, const float *bias) {
    for (int row = 0; row < whole->n_rows; row += TT_GEMM_ROUNDED_ROWS) {
        tt_gemm_share rows = *whole;
        rows.n_rows = smaller(whole->n_rows - row, TT_GEMM_ROUNDED_ROWS);
        rows.x += (size_t)row * whole->x_row;
        rows.y += (size_t)row * whole->y_ld;
        multiply_rows(gemm, &rows, bias);
    }
}
