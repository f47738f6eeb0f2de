/* gemm: the one door to BLIS. Products of fp32 activations with frozen matrices as they lie on
 * disk (F32, BF16, F16; FP8 with scales, GGUF's Q8_0), and plain fp32 products.
 *
 * Arithmetic is fp32 with fp32 accumulation (bf16: see below). A stored matrix is never copied
 * whole: blocks of it are widened into a cache-sized workspace and multiplied from there, so each
 * weight is converted once per call, not once per token. BLIS has no such product and would pack
 * the widened block a second time, so these products run a register tile of our own
 * (src/shape/gemm_kernel.h), compiled for several instruction sets and chosen at run time; plain
 * fp32 products are BLIS's.
 *
 * Deterministic: an output of tt_gemm_forward and tt_gemm_backward has the same bits whatever the
 * number of threads, and whichever other tokens are in the call. All arrays row-major and
 * contiguous unless a leading dimension is given.
 *
 * BLIS 0.9 does not know every AVX-512 machine and then falls back to AVX2 kernels at half the
 * speed: tt_gemm_create picks the kernel set that fits the CPU's features unless the user set
 * BLIS_ARCH_TYPE (the one environment variable read below the door, since it is BLIS's own switch).
 * It must therefore run before any other BLIS call of the process. */
#ifndef TRIMTAB_GEMM_H
#define TRIMTAB_GEMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trimtab/safetensors.h"
#include "trimtab/status.h"

/* A frozen matrix as it lies in a mapped file: [rows = outputs x cols = inputs]. Borrowed bytes.
 *
 * F8_E4M3: element (r, c) is its code's value times a factor that a block of elements shares,
 *     scale[((r + scale_skip) >> scale_row_shift) * n + (c >> scale_col_shift)],
 * n = ((cols - 1) >> scale_col_shift) + 1, rounded once. A shift of 31: one block all the way.
 * Q8_0: a row is cols / 32 blocks, each an fp16 factor and 32 int8; element = factor * int8 (exact
 * in fp32). cols is a multiple of 32.
 * interleaved: rows come in groups of so many (a head), and row h * interleaved + i of the matrix
 * lies at h * interleaved + 2 i in the file when i is in the first half of the group, and at
 * h * interleaved + 2 (i - half) + 1 in the second: how GGUF files lay q and k for a RoPE that
 * turns neighbours. 0: rows lie in order. */
typedef struct tt_matrix {
    const void *data;
    tt_dtype dtype; /* F32, BF16, F16, F8_E4M3 or Q8_0 */
    int rows, cols;
    int interleaved;
    const float *scale;                   /* F8_E4M3 only; borrowed; else NULL */
    int scale_row_shift, scale_col_shift; /* log2 of a block's size; columns: 6 at least */
    int scale_skip;                       /* rows of the first block before row 0 */
} tt_matrix;

typedef struct tt_gemm tt_gemm;

/* n_threads: of every product and of the OpenMP regions in ops (set for the calling thread by
 * omp_set_num_threads). One call at a time on one tt_gemm. Freed by tt_gemm_destroy.
 * Errors: ERR_MEMORY. */
tt_status tt_gemm_create(int n_threads, tt_gemm **out, tt_error *err) TT_MUST_CHECK;
void tt_gemm_destroy(tt_gemm *gemm);
int tt_gemm_n_threads(const tt_gemm *gemm);

/* Bytes that products take: our workspace, and what BLIS packs into for tt_gemm_f32 with at most
 * max_cols columns (an estimate). */
size_t tt_gemm_bytes(int n_threads, int max_cols);

/* Name of the kernel set BLIS runs ("skx", "haswell", "zen3", ...) and BLIS's version. Built without
 * BLIS (TT_BLAS=reference, slow): "fortran", and the file of the BLAS that is loaded. */
const char *tt_gemm_kernel_name(void);
const char *tt_gemm_version(void);
bool tt_gemm_is_blis(void);

/* Name of the instruction set our own products use: "avx512", "avx2" or "base". */
const char *tt_gemm_own_kernel_name(void);

/* y [n_tokens x w.rows] = x [n_tokens x w.cols] * w^T (+ bias [w.rows] unless NULL)
 * (+ y when accumulate). */
void tt_gemm_forward(tt_gemm *gemm, int n_tokens, const float *x, const tt_matrix *w,
                     const float *bias, bool accumulate, float *y);

/* dx [n_tokens x w.cols] = dy [n_tokens x w.rows] * w  (+ dx when accumulate). */
void tt_gemm_backward(tt_gemm *gemm, int n_tokens, const float *dy, const tt_matrix *w,
                      bool accumulate, float *dx);

/* --- bf16 arithmetic ----------------------------------------------------------------------------
 *
 * On CPUs with dot products of bf16 (AVX-512 BF16; not AMX), products with matrices stored as BF16
 * may use them: x is rounded to bf16 (to the nearest, ties to even), weights are what they are,
 * sums are fp32. Twice the rate where the CPU has full-width units for it, less than fp32's on
 * some. An output differs from fp32's by the rounding of x, up to 2^-9 of each product; subnormal
 * numbers count as 0. As deterministic as the fp32 products. Other matrices and all other
 * arithmetic stay fp32. Off unless asked for. */

/* Does this CPU have them? */
bool tt_gemm_has_bf16(void);

/* From now on tt_gemm_forward and tt_gemm_backward do so with matrices of BF16.
 * Errors: ERR_USAGE (not on this CPU), ERR_MEMORY. */
tt_status tt_gemm_use_bf16(tt_gemm *gemm, tt_error *err) TT_MUST_CHECK;
bool tt_gemm_uses_bf16(const tt_gemm *gemm);

/* Bytes that it adds to tt_gemm_bytes. */
size_t tt_gemm_bf16_bytes(void);

/* As tt_gemm_forward, always in fp32: for results that are kept, not passed on. */
void tt_gemm_forward_fp32(tt_gemm *gemm, int n_tokens, const float *x, const tt_matrix *w,
                          const float *bias, bool accumulate, float *y);

/* tt_gemm_burst of such dot products; 0: the CPU has none. */
double tt_gemm_burst_bf16(int64_t n_rounds);

/* c [m x n, ldc] = alpha * op(a) op(b) + beta * c; op(a) is [m x k], op(b) is [k x n]; a is stored
 * [m x k] (or [k x m] when trans_a) with row stride lda, b likewise. beta == 0 does not read c.
 * n_threads threads (1: safe to call from inside an OpenMP region). */
void tt_gemm_f32(int n_threads, bool trans_a, bool trans_b, int m, int n, int k, float alpha,
                 const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc);

/* As tt_gemm_f32, in fp64. */
void tt_gemm_f64(int n_threads, bool trans_a, bool trans_b, int m, int n, int k, double alpha,
                 const double *a, int lda, const double *b, int ldb, double beta, double *c,
                 int ldc);

/* The lower triangle (i >= j) of c [n x n, ldc] += op(a) op(a)^T; op(a) is [n x k]; a is stored
 * [n x k] (or [k x n] when trans_a) with row stride lda. */
void tt_gemm_gram_f64(int n_threads, bool trans_a, int n, int k, const double *a, int lda,
                      double *c, int ldc);

/* Threads of products that other libraries (LAPACK, ScaLAPACK) ask of BLIS in this process. */
void tt_gemm_set_lapack_threads(int n_threads);

/* Runs n_rounds rounds of multiply-adds that never leave the registers, in the calling thread, and
 * returns the floating-point operations done: timed, the peak that products are measured against.
 */
double tt_gemm_burst(int64_t n_rounds);

/* Rows [first, first + n_rows) of w widened to fp32 into out [n_rows x w.cols]. */
void tt_gemm_widen_rows(const tt_matrix *w, int first, int n_rows, float *out);

/* Elements [col, col + n) of one row of w, widened to fp32. Safe inside an OpenMP region. */
void tt_gemm_widen_span(const tt_matrix *w, int row, int col, int n, float *out);

/* Rows [first, first + n_rows) of w, where they lie, whatever its storage (the factors of FP8
 * blocks go along). Of an interleaved matrix: whole heads. */
tt_matrix tt_gemm_rows(const tt_matrix *w, int first, int n_rows);

#endif
