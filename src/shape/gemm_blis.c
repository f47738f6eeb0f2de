/* gemm's fp32 and fp64 products by BLIS (TT_BLAS=blis). */
#include <blis.h>
#include <stdio.h>
#include <stdlib.h>

#include "gemm_private.h"

/* BLIS reads BLIS_ARCH_TYPE (a number of its own arch_t) once, when it is initialised. */
void tt_gemm_start_blas(void) {
#if defined(__x86_64__) && defined(BLIS_CONFIG_SKX)
    if (tt_gemm_has_avx512()) {
        char id[16];
        snprintf(id, sizeof id, "%d", (int)BLIS_ARCH_SKX);
        setenv("BLIS_ARCH_TYPE", id, 0);
    }
#endif
    bli_init();
}

bool tt_gemm_is_blis(void) {
    return true;
}

const char *tt_gemm_kernel_name(void) {
    tt_gemm_start_blas();
    return bli_arch_string(bli_arch_query_id());
}

const char *tt_gemm_version(void) {
    return bli_info_get_version_str();
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

void tt_gemm_f64(int n_threads, bool trans_a, bool trans_b, int m, int n, int k, double alpha,
                 const double *a, int lda, const double *b, int ldb, double beta, double *c,
                 int ldc) {
    rntm_t runtime = BLIS_RNTM_INITIALIZER;
    bli_rntm_set_num_threads(n_threads, &runtime);
    bli_dgemm_ex(trans_a ? BLIS_TRANSPOSE : BLIS_NO_TRANSPOSE,
                 trans_b ? BLIS_TRANSPOSE : BLIS_NO_TRANSPOSE, m, n, k, &alpha, (double *)a, lda, 1,
                 (double *)b, ldb, 1, &beta, c, ldc, 1, NULL, &runtime);
}

void tt_gemm_gram_f64(int n_threads, bool trans_a, int n, int k, const double *a, int lda,
                      double *c, int ldc) {
    rntm_t runtime = BLIS_RNTM_INITIALIZER;
    bli_rntm_set_num_threads(n_threads, &runtime);
    double one = 1;
    bli_dsyrk_ex(BLIS_LOWER, trans_a ? BLIS_TRANSPOSE : BLIS_NO_TRANSPOSE, n, k, &one, (double *)a,
                 lda, 1, &one, c, ldc, 1, NULL, &runtime);
}

void tt_gemm_set_lapack_threads(int n_threads) {
    bli_thread_set_num_threads(n_threads);
}
