/* Frozen products in the shapes of four models, against the peak of their arithmetic. */
#include <stdio.h>
#include <stdlib.h>

#include "bench_private.h"
#include "trimtab/gemm.h"

/* Weights are taken from all over an array larger than caches, as a model's layers are. */
enum { POOL_BYTES = 192 << 20, ALIGN = 64 };

/* What is measured of each shape: directions, in fp32 and then, where the CPU has it, in bf16. */
enum { N_DIRECTIONS = 2, N_KINDS = 2, N_RUNS = N_KINDS * N_DIRECTIONS };
static const char *const runs[N_RUNS] = {"forward", "backward", "forward bf16", "backward bf16"};
static const char *const kinds[N_KINDS] = {"both", "both bf16"};

typedef struct bench_gemm {
    const tt_bench_settings *settings;
    int n_kinds;
    tt_gemm *gemm[N_KINDS];
    uint16_t *pool;
    size_t n_pool, next;
    float *x, *y; /* [n_tokens x widest] */
    double peak[N_KINDS];
    tt_stopwatch took[TT_BENCH_SHAPES][N_RUNS]; /* of the model at hand */
} bench_gemm;

static tt_status create(bench_gemm *b, int widest, size_t largest, tt_error *err) {
    const tt_bench_settings *s = b->settings;
    b->n_kinds = tt_gemm_has_bf16() ? N_KINDS : 1;
    for (int kind = 0; kind < b->n_kinds; kind++)
        TT_TRY(tt_gemm_create(s->n_threads, &b->gemm[kind], err));
    if (b->n_kinds > 1) TT_TRY(tt_gemm_use_bf16(b->gemm[1], err));
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
    for (int kind = 0; kind < N_KINDS; kind++) tt_gemm_destroy(b->gemm[kind]);
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

static void run_once(bench_gemm *b, const tt_bench_shape *shape, int run, tt_stopwatch *took) {
    tt_gemm *gemm = b->gemm[run / N_DIRECTIONS];
    tt_matrix w = next_matrix(b, shape->rows, shape->cols);
    tt_bench_start(took);
    if (run % N_DIRECTIONS)
        tt_gemm_backward(gemm, b->settings->n_tokens, b->x, &w, false, b->y);
    else
        tt_gemm_forward(gemm, b->settings->n_tokens, b->x, &w, NULL, false, b->y);
    tt_bench_stop(took);
}

static void run_shape(bench_gemm *b, const tt_bench_shape *shape, tt_stopwatch took[N_RUNS]) {
    double end = tt_process_seconds() + b->settings->seconds;
    do {
        tt_bench_peak_turn(b->settings->n_threads, &b->peak[0]);
        if (b->n_kinds > 1) tt_bench_bf16_turn(b->settings->n_threads, &b->peak[1]);
        for (int run = 0; run < b->n_kinds * N_DIRECTIONS; run++)
            run_once(b, shape, run, &took[run]);
    } while (tt_process_seconds() < end);
}

/* The peak of the whole run is still unknown: until it is, a row's limit is the number of its kind.
 */
static void add(bench_gemm *b, const char *model, const char *what, double value, int kind,
                tt_bench_rows *out) {
    char name[2 * TT_BENCH_NAME_BYTES];
    if (kind >= b->n_kinds) return;
    snprintf(name, sizeof name, "%s %s", model, what);
    tt_bench_add(out, name, value, "GFLOP/s", kind);
}

static void add_limits(const bench_gemm *b, tt_bench_rows *out) {
    for (int i = 0; i < out->n; i++) {
        tt_bench_row *row = &out->row[i];
        if (i < b->n_kinds) {
            row->value = b->peak[i];
            row->limit = 0;
        } else {
            row->limit = b->peak[(int)row->limit];
            row->ratio = row->value / row->limit;
        }
    }
}

static void add_rows(bench_gemm *b, const char *model, const tt_bench_shape *shapes,
                     tt_bench_rows *out) {
    char what[TT_BENCH_NAME_BYTES];
    double flops = 0, took[N_RUNS] = {0};
    for (int i = 0; i < TT_BENCH_SHAPES; i++) {
        const tt_bench_shape *shape = &shapes[i];
        double once = 2.0 * b->settings->n_tokens * shape->rows * shape->cols;
        flops += once * shape->times;
        for (int run = 0; shape->times && run < N_RUNS; run++) {
            snprintf(what, sizeof what, "%s %dx%d %s", shape->name, shape->rows, shape->cols,
                     runs[run]);
            add(b, model, what, tt_bench_rate(&b->took[i][run], once), run / N_DIRECTIONS, out);
            took[run] += shape->times * b->took[i][run].best;
        }
    }
    for (int run = 0; run < N_RUNS; run++)
        add(b, model, runs[run], flops / took[run] * 1e-9, run / N_DIRECTIONS, out);
    for (int kind = 0; kind < N_KINDS; kind++)
        add(b, model, kinds[kind], 2 * flops / (took[2 * kind] + took[2 * kind + 1]) * 1e-9, kind,
            out);
}

static tt_status measure(bench_gemm *b, tt_bench_rows *out, tt_error *err) {
    tt_spec spec;
    tt_bench_shape shapes[TT_BENCH_SHAPES];
    for (int model = 0;;) {
        TT_TRY(tt_bench_model(b->settings, &model, &spec, err));
        if (spec.n_layers == 0) return TT_OK;
        tt_bench_model_shapes(&spec, shapes);
        for (int i = 0; i < TT_BENCH_SHAPES; i++) {
            for (int run = 0; run < N_RUNS; run++) b->took[i][run] = (tt_stopwatch){0};
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
        b.peak[0] = tt_bench_fma_peak(settings->n_threads);
        tt_bench_add(out, "fma peak", 0, "GFLOP/s", 0);
        if (b.n_kinds > 1) tt_bench_add(out, "bf16 peak", 0, "GFLOP/s", 0);
        status = measure(&b, out, err);
        add_limits(&b, out);
    }
    destroy(&b);
    return status;
}
