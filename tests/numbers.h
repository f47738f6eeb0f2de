/* numbers: what the numeric tests share: repeatable random arrays and a measure of distance. */
#ifndef TRIMTAB_TESTS_NUMBERS_H
#define TRIMTAB_TESTS_NUMBERS_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "trimtab/rng.h"

/* n values uniform in +-range, freed by the caller. */
static inline float *numbers_random(size_t n, uint64_t stream, double range) {
    float *x = malloc((n ? n : 1) * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = (float)((2 * tt_rng_uniform(7, stream, i) - 1) * range);
    return x;
}

/* Largest |got - want| over the largest |want|; infinite when a value is not finite. */
static inline double numbers_distance(size_t n, const float *got, const double *want) {
    double worst = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - want[i]);
        if (!(d < HUGE_VAL)) return HUGE_VAL;
        if (d > worst) worst = d;
        if (fabs(want[i]) > size) size = fabs(want[i]);
    }
    return size > 0 ? worst / size : worst;
}

/* As an assertion that says how far off it was. */
#define assert_near(n, got, want, tolerance)                                                       \
    do {                                                                                           \
        double near_distance = numbers_distance(n, got, want);                                     \
        if (!(near_distance <= (tolerance)))                                                       \
            fail_msg("%s: relative distance %g, allowed %g", #got, near_distance,                  \
                     (double)(tolerance));                                                         \
    } while (0)

#endif
