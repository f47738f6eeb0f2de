/* What the measurements share: the best of repeated runs. */
#ifndef TRIMTAB_BENCH_PRIVATE_H
#define TRIMTAB_BENCH_PRIVATE_H

#include <stddef.h>
#include <stdint.h>

#include "trimtab/bench.h"
#include "trimtab/job.h"
#include "trimtab/process.h"

/* What is trained where a layer is measured: post-block steering. */
extern const tt_method tt_bench_method;

/* Shortest of all runs so far, in seconds. */
typedef struct tt_stopwatch {
    double start, best;
} tt_stopwatch;

static inline void tt_bench_start(tt_stopwatch *w) {
    w->start = tt_process_seconds();
}

static inline void tt_bench_stop(tt_stopwatch *w) {
    double took = tt_process_seconds() - w->start;
    if (w->best == 0.0 || took < w->best) w->best = took;
}

/* 1e9 units a second. */
static inline double tt_bench_rate(const tt_stopwatch *w, double units) {
    return w->best > 0.0 ? units / w->best * 1e-9 : 0.0;
}

/* GB/s read from an array far larger than the caches; 0 when there is no memory. */
double tt_bench_memory_rate(int n_threads);

/* --- What is made up (bench_made.c) ------------------------------------------------------------
 */

/* bf16 numbers of both signs between 2^-8 and 2^-5: layers of them neither grow nor vanish. */
void tt_bench_fill_bf16(size_t n, uint16_t *out);
/* fp32 numbers in (-1, 1), malloc'ed; NULL when there is no memory. */
float *tt_bench_floats(size_t n);

#endif
