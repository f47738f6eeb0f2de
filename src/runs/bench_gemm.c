/* Frozen products in the shapes of four models, against the FMA peak. */
#include <stdio.h>
#include <stdlib.h>

#include "bench_private.h"
#include "trimtab/gemm.h"

/* Weights are taken from all over an array larger than caches, as a model's layers are. */
enum { POOL_BYTES = 192 << 20, N_DIRECTIONS = 2, ALIGN = 64 };

static const char *const directions[N_DIRECTIONS] = {"forward", "backward"};

typedef struct bench_gemm {
    const tt_bench_settings *settings;
    tt_gemm *gemm;
    uint16_t *pool;
    size_t n_pool, next;
    float *x, *y; /* [n_tokens x widest] */
    double peak;
    tt_stopwatch took[TT_BENCH_SHAPES][N_DIRECTIONS]; /* of the model at hand */
} bench_gemm;

static tt_status create(bench_gemm *b, int widest, size_t largest, tt_error *err) {
    const tt_bench_settings *s = b->settings;
    TT_TRY(tt_gemm_create(s->n_threads, &b->gemm, err));
    b->n_pool = POOL_BYTES / sizeof *b->pool;
    if (b->n_pool < largest) b->n_pool = largest;
    b->pool = malloc(b->n_pool * sizeof *b->pool);
    b->x = tt_bench_floats((size_t)s->n_tokens * (size_t)widest);
    b->y = tt_bench_floats((size_t)s->n_tokens * (size_t)widest);
    if (!b->pool || !b->x || !b->y)
        return tt_fail(err, TT_ERR_MEMORY, "no memory to measure products of %d tokens",
                       s->n_tokens);
    tt_bench_fill_bf16(b->n_pool, b->pool);
    return TT_OK;
}

static void destroy(bench_gemm *b) {
    tt_gemm_destroy(b->gemm);
    free(b->pool);
    free(b->x);
    free(b->y);
}

static tt_matrix next_matrix(bench_gemm *b, int rows, int cols) {
    size_t n = (size_t)rows * (size_t)cols;
    if (b->n_pool - b->next < n) b->next = 0;
    tt_matrix w = {.data = b->pool + b->next, .dtype = TT_DTYPE_BF16, .rows = rows, .cols = cols};
    b->next += (n + ALIGN - 1) / ALIGN * ALIGN;
    if (b->next > b->n_pool) b->next = 0;
    return w;
}

static void run_shape(bench_gemm *b, const tt_bench_shape *shape, tt_stopwatch took[N_DIRECTIONS]) {
    int n = b->settings->n_tokens;
    double end = tt_process_seconds() + b->settings->seconds;
    do {
        tt_bench_peak_turn(b->settings->n_threads, &b->peak);
        tt_matrix w = next_matrix(b, shape->rows, shape->cols);
        tt_bench_start(&took[0]);
        tt_gemm_forward(b->gemm, n, b->x, &w, NULL, false, b->y);
        tt_bench_stop(&took[0]);
        w = next_matrix(b, shape->rows, shape->cols);
        tt_bench_start(&took[1]);
        tt_gemm_backward(b->gemm, n, b->x, &w, false, b->y);
        tt_bench_stop(&took[1]);
    } while (tt_process_seconds() < end);
}

/* The rows' limit is still unknown: the peak of the whole run. */
static void add_rows(bench_gemm *b, const char *model, const tt_bench_shape *shapes,
                     tt_bench_rows *out) {
    char name[2 * TT_BENCH_NAME_BYTES];
    double flops = 0, took[N_DIRECTIONS] = {0};
    for (int i = 0; i < TT_BENCH_SHAPES; i++) {
        const tt_bench_shape *shape = &shapes[i];
        double once = 2.0 * b->settings->n_tokens * shape->rows * shape->cols;
        flops += once * shape->times;
        for (int d = 0; shape->times && d < N_DIRECTIONS; d++) {
            snprintf(name, sizeof name, "%s %s %dx%d %s", model, shape->name, shape->rows,
                     shape->cols, directions[d]);
            tt_bench_add(out, name, tt_bench_rate(&b->took[i][d], once), "GFLOP/s", 0);
            took[d] += shape->times * b->took[i][d].best;
        }
    }
    for (int d = 0; d < N_DIRECTIONS; d++) {
        snprintf(name, sizeof name, "%s %s", model, directions[d]);
        tt_bench_add(out, name, flops / took[d] * 1e-9, "GFLOP/s", 0);
    }
    snprintf(name, sizeof name, "%s both", model);
    tt_bench_add(out, name, 2 * flops / (took[0] + took[1]) * 1e-9, "GFLOP/s", 0);
}

static tt_status measure(bench_gemm *b, tt_bench_rows *out, tt_error *err) {
    tt_spec spec;
    tt_bench_shape shapes[TT_BENCH_SHAPES];
    for (int model = 0;;) {
        TT_TRY(tt_bench_model(b->settings, &model, &spec, err));
        if (spec.n_layers == 0) return TT_OK;
        tt_bench_model_shapes(&spec, shapes);
        for (int i = 0; i < TT_BENCH_SHAPES; i++) {
            b->took[i][0] = b->took[i][1] = (tt_stopwatch){0};
            if (shapes[i].times) run_shape(b, &shapes[i], b->took[i]);
        }
        add_rows(b, spec.architecture, shapes, out);
    }
}

static tt_status largest_of(const tt_bench_settings *settings, int *widest, size_t *largest,
                            tt_error *err) {
    tt_spec spec;
    tt_bench_shape shapes[TT_BENCH_SHAPES];
    for (int model = 0;;) {
        TT_TRY(tt_bench_model(settings, &model, &spec, err));
        if (spec.n_layers == 0) return TT_OK;
        tt_bench_model_shapes(&spec, shapes);
        for (int i = 0; i < TT_BENCH_SHAPES; i++) {
            size_t n = (size_t)shapes[i].rows * (size_t)shapes[i].cols;
            if (shapes[i].rows > *widest) *widest = shapes[i].rows;
            if (n > *largest) *largest = n;
        }
    }
}

tt_status tt_bench_gemm(const tt_bench_settings *settings, tt_bench_rows *out, tt_error *err) {
    bench_gemm b = {.settings = settings};
    int widest = 0;
    size_t largest = 0;
    out->n = 0;
    TT_TRY(largest_of(settings, &widest, &largest, err));
    tt_status status = create(&b, widest, largest, err);
    if (status == TT_OK) {
        b.peak = tt_bench_fma_peak(settings->n_threads);
        tt_bench_add(out, "fma peak", b.peak, "GFLOP/s", 0.0);
        status = measure(&b, out, err);
        out->row[0].value = b.peak;
        for (int i = 1; i < out->n; i++) {
            out->row[i].limit = b.peak;
            out->row[i].ratio = out->row[i].value / b.peak;
        }
    }
    destroy(&b);
    return status;
}
