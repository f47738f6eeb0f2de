/* The end of a model: from the last layer's rows to losses, and back. */
#include <stdio.h>
#include <stdlib.h>

#include "bench_private.h"
#include "trimtab/gemm.h"
#include "trimtab/ops.h"

enum { HIDDEN = 2048, VOCAB = 128256 };

static const int swept_rows[] = {4, 64, 512};

typedef struct bench_head {
    tt_gemm *gemm;
    uint16_t *stored; /* [VOCAB x HIDDEN] */
    float *norm;      /* [HIDDEN] */
    float *x, *y, *d; /* [n_rows x HIDDEN] */
    float *rstd;      /* [n_rows] */
    float *scale;     /* [n_rows] of each row's loss */
    int32_t *target;  /* [n_rows] */
    double *loss;     /* [n_rows] */
    void *scratch;
} bench_head;

static tt_status create(int n_rows, int n_threads, bench_head *b, tt_error *err) {
    size_t n = (size_t)n_rows, n_weights = (size_t)VOCAB * HIDDEN;
    TT_TRY(tt_gemm_create(n_threads, &b->gemm, err));
    b->stored = malloc(n_weights * sizeof *b->stored);
    b->norm = tt_bench_floats(HIDDEN);
    b->x = tt_bench_floats(n * HIDDEN);
    b->y = tt_bench_floats(n * HIDDEN);
    b->d = tt_bench_floats(n * HIDDEN);
    b->rstd = tt_bench_floats(n);
    b->scale = tt_bench_floats(n);
    b->target = malloc(n * sizeof *b->target);
    b->loss = malloc(n * sizeof *b->loss);
    b->scratch = malloc(tt_ops_head_scratch_bytes(n_rows));
    if (!b->stored || !b->norm || !b->x || !b->y || !b->d || !b->rstd || !b->scale || !b->target ||
        !b->loss || !b->scratch)
        return tt_fail(err, TT_ERR_MEMORY, "no memory to measure a head at %d rows", n_rows);
    tt_bench_fill_bf16(n_weights, b->stored);
    for (int r = 0; r < n_rows; r++) b->target[r] = (int32_t)((int64_t)r * 7919 % VOCAB);
    return TT_OK;
}

static void destroy(bench_head *b) {
    tt_gemm_destroy(b->gemm);
    free(b->stored);
    free(b->norm);
    free(b->x);
    free(b->y);
    free(b->d);
    free(b->rstd);
    free(b->scale);
    free(b->target);
    free(b->loss);
    free(b->scratch);
}

static void run(bench_head *b, int n_rows) {
    const tt_matrix w = {.data = b->stored, .dtype = TT_DTYPE_BF16, .rows = VOCAB, .cols = HIDDEN};
    const tt_head head = {.w = &w, .scale = 1};
    const tt_norm norm = {.w = b->norm, .eps = 1e-5};
    tt_ops_rmsnorm_forward(n_rows, HIDDEN, &norm, b->x, b->y, b->rstd);
    tt_ops_head_loss(b->gemm, n_rows, b->y, &head, b->target, b->scale, b->loss, NULL, b->d,
                     b->scratch);
    tt_ops_rmsnorm_backward_in_place(n_rows, HIDDEN, &norm, b->x, b->rstd, b->d);
}

static void measure(const tt_bench_settings *s, bench_head *b, int n_rows, double peak,
                    double memory, tt_bench_rows *out) {
    char name[TT_BENCH_NAME_BYTES];
    double weights = (double)VOCAB * HIDDEN, end = tt_process_seconds() + s->seconds;
    tt_stopwatch w = {0};
    do {
        tt_bench_start(&w);
        run(b, n_rows);
        tt_bench_stop(&w);
    } while (tt_process_seconds() < end);
    snprintf(name, sizeof name, "head of %d rows", n_rows);
    tt_bench_add(out, name, tt_bench_rate(&w, 4 * n_rows * weights), "GFLOP/s", peak);
    snprintf(name, sizeof name, "head of %d rows, weights read", n_rows);
    tt_bench_add(out, name, tt_bench_rate(&w, weights * sizeof *b->stored), "GB/s", memory);
}

tt_status tt_bench_head(const tt_bench_settings *settings, tt_bench_rows *out, tt_error *err) {
    enum { N_SWEPT = sizeof swept_rows / sizeof *swept_rows };
    bench_head b = {0};
    int most = settings->n_rows > 0 ? settings->n_rows : swept_rows[N_SWEPT - 1];
    out->n = 0;
    tt_status status = create(most, settings->n_threads, &b, err);
    if (status == TT_OK) {
        double peak = tt_bench_fma_peak(settings->n_threads);
        double memory = tt_bench_memory_rate(settings->n_threads);
        tt_bench_add(out, "fma peak", peak, "GFLOP/s", 0);
        tt_bench_add(out, "memory read", memory, "GB/s", 0);
        if (settings->n_rows > 0) measure(settings, &b, most, peak, memory, out);
        for (int i = 0; i < N_SWEPT && settings->n_rows == 0; i++)
            measure(settings, &b, swept_rows[i], peak, memory, out);
    }
    destroy(&b);
    return status;
}
