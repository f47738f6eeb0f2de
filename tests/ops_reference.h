/* ops_reference: what the tests of ops share: doubles, differences and how near fp32 comes. */
#ifndef TRIMTAB_TESTS_OPS_REFERENCE_H
#define TRIMTAB_TESTS_OPS_REFERENCE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "numbers.h"
#include "trimtab/ops.h"

/* fp32 forward passes against double; backward passes against differences with step 1e-5 in
 * double, whose own error is about 1e-9. Both are dominated by fp32 rounding. */
#define FORWARD_TOLERANCE  2e-6
#define BACKWARD_TOLERANCE 5e-6

static inline double *doubles(size_t n, const float *x) {
    double *y = malloc((n ? n : 1) * sizeof *y);
    for (size_t i = 0; i < n; i++) y[i] = (double)x[i];
    return y;
}

static inline double dot(size_t n, const double *a, const float *b) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += a[i] * (double)b[i];
    return sum;
}

/* d[i] = d/dx[i] of value(context), by central differences; x belongs to the context. */
static inline double *differences(size_t n, double *x, double (*value)(const void *),
                                  const void *context) {
    double *d = malloc((n ? n : 1) * sizeof *d);
    const double step = 1e-5;
    for (size_t i = 0; i < n; i++) {
        double kept = x[i];
        x[i] = kept + step;
        double above = value(context);
        x[i] = kept - step;
        double below = value(context);
        x[i] = kept;
        d[i] = (above - below) / (2 * step);
    }
    return d;
}

static inline tt_gemm *gemm_of(int n_threads) {
    tt_gemm *gemm;
    assert_int_equal(tt_gemm_create(n_threads, &gemm, NULL), TT_OK);
    return gemm;
}

#endif
