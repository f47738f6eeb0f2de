/* gemm's fp32 and fp64 products by any BLAS that has Fortran names (TT_BLAS=reference). That one
 * knows neither row-major matrices nor our threads: the transposes are multiplied, and c's rows
 * are shared out. */
#define _GNU_SOURCE /* dladdr */
#include <dlfcn.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "gemm_private.h"

void sgemm_(const char *trans_a, const char *trans_b, const int *m, const int *n, const int *k,
            const float *alpha, const float *a, const int *lda, const float *b, const int *ldb,
            const float *beta, float *c, const int *ldc, size_t, size_t);
void dgemm_(const char *trans_a, const char *trans_b, const int *m, const int *n, const int *k,
            const double *alpha, const double *a, const int *lda, const double *b, const int *ldb,
            const double *beta, double *c, const int *ldc, size_t, size_t);
void dsyrk_(const char *uplo, const char *trans, const int *n, const int *k, const double *alpha,
            const double *a, const int *lda, const double *beta, double *c, const int *ldc, size_t,
            size_t);

void tt_gemm_start_blas(void) {}

bool tt_gemm_is_blis(void) {
    return false;
}

const char *tt_gemm_kernel_name(void) {
    return "fortran";
}

/* The library that was linked, which alternatives or LD_LIBRARY_PATH may have chosen. */
const char *tt_gemm_version(void) {
    static char name[256];
    Dl_info found;
    if (!dladdr((void *)(uintptr_t)sgemm_, &found) || !found.dli_fname) return "unknown BLAS";
    const char *slash = strrchr(found.dli_fname, '/');
    snprintf(name, sizeof name, "%s", slash ? slash + 1 : found.dli_fname);
    return name;
}

/* Rows of c of one thread. */
static int share_of(int m, int n_shares, int i) {
    return (int)((long long)m * i / n_shares);
}

void tt_gemm_f32(int n_threads, bool trans_a, bool trans_b, int m, int n, int k, float alpha,
                 const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc) {
#pragma omp parallel for num_threads(n_threads) if (n_threads > 1)
    for (int i = 0; i < n_threads; i++) {
        int first = share_of(m, n_threads, i), rows = share_of(m, n_threads, i + 1) - first;
        const float *own = a + (size_t)first * (trans_a ? 1 : (size_t)lda);
        if (rows > 0)
            sgemm_(trans_b ? "T" : "N", trans_a ? "T" : "N", &n, &rows, &k, &alpha, b, &ldb, own,
                   &lda, &beta, c + (size_t)first * (size_t)ldc, &ldc, 1, 1);
    }
}

void tt_gemm_f64(int n_threads, bool trans_a, bool trans_b, int m, int n, int k, double alpha,
                 const double *a, int lda, const double *b, int ldb, double beta, double *c,
                 int ldc) {
#pragma omp parallel for num_threads(n_threads) if (n_threads > 1)
    for (int i = 0; i < n_threads; i++) {
        int first = share_of(m, n_threads, i), rows = share_of(m, n_threads, i + 1) - first;
        const double *own = a + (size_t)first * (trans_a ? 1 : (size_t)lda);
        if (rows > 0)
            dgemm_(trans_b ? "T" : "N", trans_a ? "T" : "N", &n, &rows, &k, &alpha, b, &ldb, own,
                   &lda, &beta, c + (size_t)first * (size_t)ldc, &ldc, 1, 1);
    }
}

/* Our lower triangle is the upper one of the transpose. One thread: it runs once a matrix. */
void tt_gemm_gram_f64(int n_threads, bool trans_a, int n, int k, const double *a, int lda,
                      double *c, int ldc) {
    (void)n_threads;
    double one = 1;
    dsyrk_("U", trans_a ? "N" : "T", &n, &k, &one, a, &lda, &one, c, &ldc, 1, 1);
}

/* LAPACK's products have the threads that its BLAS takes. */
void tt_gemm_set_lapack_threads(int n_threads) {
    (void)n_threads;
}
