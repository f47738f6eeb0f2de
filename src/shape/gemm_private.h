/* Inside of gemm: shared by gemm*.c, ops_attention.c (tiles) and ops_head.c (target rows). */
#ifndef TRIMTAB_SHAPE_GEMM_PRIVATE_H
#define TRIMTAB_SHAPE_GEMM_PRIVATE_H

#include <stdint.h>

#include "trimtab/gemm.h"

/* One thread's share of a product:  y [n_rows x (first .. first + n)] (+)= x * op(w), where x is
 * [n_rows x n_inner] with x[r][p] at x[r * x_row + p], and
 *   outputs_are_rows:  op(w)[p][o] = w[o * w_ld + p]   (a layer's forward pass: y = x w^T)
 *   otherwise:         op(w)[p][o] = w[p * w_ld + o]   (its backward pass: dx = dy w)
 * first and n count outputs o; y[r][o] at y[r * y_ld + o].
 * Of kernels for bf16 arithmetic, a step p of x is two bf16 in the place of a float, elements
 * first_inner + 2 p and + 1 of op(w)'s rows; one behind the matrix's last counts as 0. */
typedef struct tt_gemm_share {
    const void *w;
    tt_dtype w_dtype;
    size_t w_ld;             /* elements */
    const tt_matrix *matrix; /* that w is; may be NULL of plain fp32 */
    bool outputs_are_rows;
    int n_inner;
    int first_inner; /* of bf16 arithmetic; else 0 */
    const float *x;
    size_t x_row;
    int n_rows;
    float *y;
    size_t y_ld;
    int first, n;
    bool accumulate;
    float *packed; /* TT_GEMM_PACKED_FLOATS, 64-byte aligned, this thread's own */
} tt_gemm_share;

/* Inner products are cut into pieces of BLOCK_INNER steps (x rows of a tile stay in the first-level
 * cache), outputs into blocks of at most BLOCK_OUTPUTS (the packed block stays in the second). */
enum {
    TT_GEMM_BLOCK_INNER = 512,
    TT_GEMM_BLOCK_OUTPUTS = 192,
    TT_GEMM_STRETCH = 2048, /* elements of an inner product that all outputs are taken through */
    TT_GEMM_PACKED_FLOATS = TT_GEMM_BLOCK_INNER * TT_GEMM_BLOCK_OUTPUTS,
    /* bf16 arithmetic: steps of x rounded at a time, for all threads, and rows at most */
    TT_GEMM_ROUNDED_STEPS = 1 << 20,
    TT_GEMM_ROUNDED_ROWS = TT_GEMM_ROUNDED_STEPS / TT_GEMM_BLOCK_INNER,
    TT_GEMM_ROUNDED_FLOATS = TT_GEMM_ROUNDED_STEPS + 32 * TT_GEMM_ROUNDED_ROWS
};

/* gemm_kernel.h compiled for one instruction set. */
typedef struct tt_gemm_kernel {
    const char *name;
    int width; /* floats of a vector register: shares start at multiples of it */
    void (*multiply)(const tt_gemm_share *share);
    double (*burst)(int64_t n_rounds); /* see tt_gemm_burst */
} tt_gemm_kernel;

/* Before the first product; gemm_blis.c and gemm_reference.c have one each, and one is built. */
void tt_gemm_start_blas(void);

bool tt_gemm_has_avx512(void);

extern const tt_gemm_kernel tt_gemm_kernel_base, tt_gemm_kernel_avx2, tt_gemm_kernel_avx512;

/* gemm_kernel_bf16.h likewise: for matrices of BF16 and x rounded to pairs of bf16. */
extern const tt_gemm_kernel tt_gemm_kernel_bf16_base, tt_gemm_kernel_bf16_avx512;

/* The widest kernel this CPU runs. */
const tt_gemm_kernel *tt_gemm_best_kernel(void);

/* The kernel of dot-product instructions for bf16; NULL: the CPU has none. */
const tt_gemm_kernel *tt_gemm_bf16_kernel(void);

struct tt_gemm {
    int n_threads;
    const tt_gemm_kernel *kernel;
    const tt_gemm_kernel *bf16; /* that multiplies with matrices of BF16; NULL: kernel does */
    float *packed;              /* [n_threads x TT_GEMM_PACKED_FLOATS] */
    float *rounded;             /* [TT_GEMM_ROUNDED_FLOATS] pairs; NULL before they are needed */
};

/* A thread's share: a run of outputs that starts at a multiple of the vector width or, of outputs
 * too few for that, a run of rows. */
tt_gemm_share tt_gemm_cut(const tt_gemm_share *whole, int width, int64_t n_threads, int64_t thread);

/* Is the product worth several threads? steps: of its inner products. */
bool tt_gemm_is_parallel(int n_rows, int n_outputs, int n_inner);

/* y += bias at a share's outputs; NULL: nothing. */
void tt_gemm_add_bias(const tt_gemm_share *share, const float *bias);

/* The whole product by gemm->bf16; whole->x in fp32. */
void tt_gemm_multiply_bf16(const tt_gemm *gemm, const tt_gemm_share *whole, const float *bias);

/* n numbers rounded to bf16, to the nearest, ties to even; NaNs stay NaNs. An odd n: and a 0. */
void tt_gemm_round(const float *x, size_t n, uint16_t *out);

/* Calling thread's packing workspace (inside an OpenMP region or outside). */
float *tt_gemm_packed(const tt_gemm *gemm);

/* n elements of a stored array from element `first` on, widened to fp32. F32, BF16, F16. */
void tt_gemm_widen(tt_dtype dtype, const void *data, size_t first, size_t n, float *out);

/* tt_gemm_widen_span of a row in the file. */
void tt_gemm_widen_stored(const tt_matrix *w, size_t row, int col, int n, float *out);

/* Where a row of the matrix lies in the file. */
static inline int tt_gemm_stored_row(const tt_matrix *w, int row) {
    if (!w->interleaved) return row;
    int within = row % w->interleaved, half = w->interleaved / 2;
    return row - within + within % half * 2 + within / half;
}

/* Factors of a row's blocks of F8_E4M3. */
static inline const float *tt_gemm_scales(const tt_matrix *w, int row) {
    size_t n = (size_t)((w->cols - 1) >> w->scale_col_shift) + 1;
    return w->scale + (size_t)(((int64_t)row + w->scale_skip) >> w->scale_row_shift) * n;
}

#endif
