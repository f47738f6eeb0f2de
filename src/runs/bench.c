#include "bench_private.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "trimtab/gemm.h"

enum { HIDDEN = 2048, HEADS = 32, KV_HEADS = 8, HEAD_DIM = 64, INTERMEDIATE = 8192 };

static const struct {
    const char *name;
    int rows, cols;
} shapes[] = {
    {"q, o", HEADS *HEAD_DIM, HIDDEN},
    {"k, v", KV_HEADS *HEAD_DIM, HIDDEN},
    {"gate, up", INTERMEDIATE, HIDDEN},
    {"down", HIDDEN, INTERMEDIATE},
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

/* What weights are stored as; the first is what the others are compared with. */
static const struct {
    const char *name;
    tt_dtype dtype;
} kinds[] = {{"bf16", TT_DTYPE_BF16}, {"fp8", TT_DTYPE_F8_E4M3}, {"q8_0", TT_DTYPE_Q8_0}};
enum { N_KINDS = sizeof kinds / sizeof kinds[0], BLOCK_SHIFT = 7 };

void tt_bench_add(tt_bench_rows *rows, const char *name, double value, const char *unit,
                  double limit) {
    if (rows->n == TT_BENCH_MAX_ROWS) return;
    tt_bench_row *row = &rows->row[rows->n++];
    *row = (tt_bench_row){.value = value, .unit = unit, .limit = limit};
    row->ratio = limit > 0.0 ? value / limit : 0.0;
    snprintf(row->name, sizeof row->name, "%s", name);
}

/* Each thread by its own clock, best of n_runs: one that has to wait for a core spoils only its own
 * run. */
static double burst_rate(double (*burst)(int64_t n_rounds), int n_threads, int n_runs) {
    const int64_t n_rounds = 50000; /* some 0.1 ms */
    double sum = 0.0;
#pragma omp parallel num_threads(n_threads) reduction(+ : sum)
    {
        tt_stopwatch w = {0};
        double flops = 0.0;
        for (int run = 0; run < n_runs; run++) {
            tt_bench_start(&w);
            flops = burst(n_rounds);
            tt_bench_stop(&w);
        }
        sum += tt_bench_rate(&w, flops);
    }
    return sum;
}

void tt_bench_peak_turn(int n_threads, double *best) {
    double rate = burst_rate(tt_gemm_burst, n_threads, 10);
    if (rate > *best) *best = rate;
}

void tt_bench_bf16_turn(int n_threads, double *best) {
    double rate = burst_rate(tt_gemm_burst_bf16, n_threads, 10);
    if (rate > *best) *best = rate;
}

/* Tried at several moments: where two virtual cores share a physical one for a while, all bursts of
 * a moment run at half the rate (seen: 271 of 521 GFLOP/s). */
double tt_bench_fma_peak(int n_threads) {
    enum { MOMENTS = 8 };
    const struct timespec pause = {.tv_nsec = 10000000};
    double best = burst_rate(tt_gemm_burst, n_threads, 100);
    for (int moment = 0; moment < MOMENTS; moment++) {
        nanosleep(&pause, NULL);
        tt_bench_peak_turn(n_threads, &best);
    }
    return best;
}

/* Values of ordinary size: neither zero (some machines are faster) nor subnormal (all are slower).
 */
static void fill(size_t n, float *x) {
    for (size_t i = 0; i < n; i++) x[i] = (float)((i * 2654435761u >> 7) % 255) / 255.0f - 0.5f;
}

static float *filled(size_t n) {
    float *x = malloc(n * sizeof *x);
    if (x) fill(n, x);
    return x;
}

double tt_bench_memory_rate(int n_threads) {
    const size_t n = (size_t)1 << 25; /* 128 MiB */
    float *x = filled(n), sum = 0.0f;
    if (!x) return 0.0;
    tt_stopwatch w = {0};
    for (int run = 0; run < 5; run++) {
        tt_bench_start(&w);
#pragma omp parallel for simd num_threads(n_threads) reduction(+ : sum)
        for (size_t i = 0; i < n; i++) sum += x[i];
        tt_bench_stop(&w);
    }
    volatile float used = sum;
    (void)used;
    free(x);
    return tt_bench_rate(&w, (double)(n * sizeof *x));
}

/* Arrays large enough for every shape. */
typedef struct bench_data {
    tt_gemm *gemm;
    float *x, *y, *weights;
    uint16_t *stored;
    unsigned char *blocks; /* of Q8_0; read as FP8 too */
    float *factors;        /* of FP8: one for every 128 x 128 */
} bench_data;

static void free_data(bench_data *d) {
    tt_gemm_destroy(d->gemm);
    free(d->x);
    free(d->y);
    free(d->weights);
    free(d->stored);
    free(d->blocks);
    free(d->factors);
}

static tt_status create_data(const tt_bench_settings *s, bench_data *d, tt_error *err) {
    size_t n = (size_t)s->n_tokens, n_weights = (size_t)HIDDEN * INTERMEDIATE;
    *d = (bench_data){0};
    TT_TRY(tt_gemm_create(s->n_threads, &d->gemm, err));
    d->x = filled(n * INTERMEDIATE);
    d->y = filled(n * INTERMEDIATE);
    d->weights = filled(n_weights);
    d->stored = malloc(n_weights * sizeof *d->stored);
    d->blocks = malloc(tt_dtype_row_bytes(TT_DTYPE_Q8_0, (int64_t)n_weights));
    d->factors = filled(n_weights >> (2 * BLOCK_SHIFT));
    if (!d->x || !d->y || !d->weights || !d->stored || !d->blocks || !d->factors)
        return tt_fail(err, TT_ERR_MEMORY, "no memory to measure %d tokens", s->n_tokens);
    for (size_t i = 0; i < n_weights; i++) d->stored[i] = (uint16_t)(0x3c00u + i % 251);
    for (size_t i = 0; i < tt_dtype_row_bytes(TT_DTYPE_Q8_0, (int64_t)n_weights); i++)
        d->blocks[i] = (unsigned char)(16 + i % 32); /* normal numbers of fp16 and of e4m3 */
    return TT_OK;
}

static tt_matrix stored_matrix(const bench_data *d, int kind, int rows, int cols) {
    tt_matrix w = {.data = d->blocks, kinds[kind].dtype, rows, cols};
    if (w.dtype == TT_DTYPE_BF16) w.data = d->stored;
    if (w.dtype == TT_DTYPE_F8_E4M3) w.scale = d->factors;
    w.scale_row_shift = w.scale_col_shift = BLOCK_SHIFT;
    return w;
}

/* Plain and stored-weight products of one shape take turns. */
static void bench_shape(const tt_bench_settings *s, bench_data *d, int i, int n_kinds, double peak,
                        tt_bench_rows *out) {
    int n = s->n_tokens, rows = shapes[i].rows, cols = shapes[i].cols;
    tt_stopwatch plain = {0}, forward[N_KINDS] = {0}, backward[N_KINDS] = {0};
    double end = tt_process_seconds() + s->seconds, flops = 2.0 * n * rows * cols;
    do {
        tt_bench_start(&plain);
        tt_gemm_f32(s->n_threads, false, true, n, rows, cols, 1.0f, d->x, cols, d->weights, cols,
                    0.0f, d->y, rows);
        tt_bench_stop(&plain);
        for (int k = 0; k < n_kinds; k++) {
            tt_matrix w = stored_matrix(d, k, rows, cols);
            tt_bench_start(&forward[k]);
            tt_gemm_forward(d->gemm, n, d->x, &w, NULL, false, d->y);
            tt_bench_stop(&forward[k]);
            tt_bench_start(&backward[k]);
            tt_gemm_backward(d->gemm, n, d->x, &w, false, d->y);
            tt_bench_stop(&backward[k]);
        }
    } while (tt_process_seconds() < end);
    char name[TT_BENCH_NAME_BYTES];
    snprintf(name, sizeof name, "sgemm %s", shapes[i].name);
    tt_bench_add(out, name, tt_bench_rate(&plain, flops), "GFLOP/s", peak);
    for (int k = 0; k < n_kinds; k++) {
        const tt_stopwatch *than_forward = k ? &forward[0] : &plain;
        const tt_stopwatch *than_backward = k ? &backward[0] : &plain;
        snprintf(name, sizeof name, "%s forward %s", kinds[k].name, shapes[i].name);
        tt_bench_add(out, name, tt_bench_rate(&forward[k], flops), "GFLOP/s",
                     tt_bench_rate(than_forward, flops));
        snprintf(name, sizeof name, "%s backward %s", kinds[k].name, shapes[i].name);
        tt_bench_add(out, name, tt_bench_rate(&backward[k], flops), "GFLOP/s",
                     tt_bench_rate(than_backward, flops));
    }
}

/* The first shape in bf16 arithmetic. */
static tt_status bench_bf16(const tt_bench_settings *s, bench_data *d, tt_bench_rows *out,
                            tt_error *err) {
    int n = s->n_tokens, rows = shapes[0].rows, cols = shapes[0].cols;
    const tt_matrix w = stored_matrix(d, 0, rows, cols);
    double peak = 0, end = tt_process_seconds() + s->seconds, flops = 2.0 * n * rows * cols;
    tt_stopwatch forward = {0}, backward = {0};
    TT_TRY(tt_gemm_use_bf16(d->gemm, err));
    do {
        tt_bench_bf16_turn(s->n_threads, &peak);
        tt_bench_start(&forward);
        tt_gemm_forward(d->gemm, n, d->x, &w, NULL, false, d->y);
        tt_bench_stop(&forward);
        tt_bench_start(&backward);
        tt_gemm_backward(d->gemm, n, d->x, &w, false, d->y);
        tt_bench_stop(&backward);
    } while (tt_process_seconds() < end);
    tt_bench_add(out, "bf16 peak", peak, "GFLOP/s", 0.0);
    tt_bench_add(out, "bf16 arithmetic forward", tt_bench_rate(&forward, flops), "GFLOP/s", peak);
    tt_bench_add(out, "bf16 arithmetic backward", tt_bench_rate(&backward, flops), "GFLOP/s", peak);
    return TT_OK;
}

tt_status tt_bench_products(const tt_bench_settings *settings, tt_bench_rows *out, tt_error *err) {
    bench_data data;
    out->n = 0;
    tt_status status = create_data(settings, &data, err);
    if (status == TT_OK) {
        double peak = tt_bench_fma_peak(settings->n_threads);
        tt_bench_add(out, "fma peak", peak, "GFLOP/s", 0.0);
        bench_shape(settings, &data, 0, 1, peak, out);
        if (tt_gemm_has_bf16()) status = bench_bf16(settings, &data, out, err);
    }
    free_data(&data);
    return status;
}

tt_status tt_bench_kernels(const tt_bench_settings *settings, tt_bench_rows *out, tt_error *err) {
    bench_data data;
    out->n = 0;
    tt_status status = create_data(settings, &data, err);
    if (status == TT_OK) {
        double peak = tt_bench_fma_peak(settings->n_threads);
        tt_bench_add(out, "fma peak", peak, "GFLOP/s", 0.0);
        tt_bench_add(out, "memory read", tt_bench_memory_rate(settings->n_threads), "GB/s", 0.0);
        for (int i = 0; i < N_SHAPES; i++) bench_shape(settings, &data, i, N_KINDS, peak, out);
    }
    free_data(&data);
    return status;
}
