/* Passes over activations that no product hides: norms, rotation, gates, residuals. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench_private.h"
#include "trimtab/gemm.h"
#include "trimtab/ops.h"

enum { HIDDEN = 2048, HEADS = 32, KV_HEADS = 8, HEAD_DIM = 64, INTERMEDIATE = 8192 };
enum { POSITIONS = 4096, POOL_FLOATS = 1 << 25, TRIAD_FLOATS = 1 << 20 };

/* Numbers are taken from the pools in turn, so that each run finds its arrays in memory and not
 * where the run before left them. What is read only stays as it was filled. */
typedef struct bench_passes {
    tt_gemm *gemm; /* sets the threads of ops */
    int n_tokens;
    float *in, *out; /* [POOL_FLOATS], or more when that is too little for one pass */
    size_t n_pool, in_at, out_at;
    float *weight, *rstd;         /* [HIDDEN], [rows] */
    float *cos_table, *sin_table; /* [POSITIONS x HEAD_DIM / 2] */
    int32_t *positions;           /* [n_tokens] */
} bench_passes;

static float *next(float *pool, size_t n_pool, size_t *at, size_t n) {
    if (*at + n > n_pool) *at = 0;
    float *array = pool + *at;
    *at += n;
    return array;
}

static const float *input(bench_passes *b, size_t n) {
    return next(b->in, b->n_pool, &b->in_at, n);
}

static float *output(bench_passes *b, size_t n) {
    return next(b->out, b->n_pool, &b->out_at, n);
}

static size_t hidden(const bench_passes *b) {
    return (size_t)b->n_tokens * HIDDEN;
}

static size_t intermediate(const bench_passes *b) {
    return (size_t)b->n_tokens * INTERMEDIATE;
}

static void residual(bench_passes *b) {
    tt_ops_add(hidden(b), input(b, hidden(b)), output(b, hidden(b)));
}

static tt_norm norm_of(const bench_passes *b) {
    return (tt_norm){.w = b->weight, .eps = 1e-5};
}

static void norm_forward(bench_passes *b) {
    const tt_norm norm = norm_of(b);
    tt_ops_rmsnorm_forward(b->n_tokens, HIDDEN, &norm, input(b, hidden(b)), output(b, hidden(b)),
                           b->rstd);
}

static void norm_backward(bench_passes *b) {
    const tt_norm norm = norm_of(b);
    const float *x = input(b, hidden(b)), *d_y = input(b, hidden(b));
    tt_ops_rmsnorm_backward(b->n_tokens, HIDDEN, &norm, x, b->rstd, d_y, output(b, hidden(b)));
}

static void rotate(bench_passes *b) {
    const tt_rotation rotation = {HEAD_DIM, b->cos_table, b->sin_table};
    size_t n = (size_t)b->n_tokens * KV_HEADS * HEAD_DIM;
    tt_ops_rope(b->n_tokens, HEADS, HEAD_DIM, b->positions, &rotation, false, output(b, hidden(b)));
    tt_ops_rope(b->n_tokens, KV_HEADS, HEAD_DIM, b->positions, &rotation, false, output(b, n));
}

static void gate_forward(bench_passes *b, tt_gate act) {
    size_t n = intermediate(b);
    const float *gate = input(b, n), *up = input(b, n);
    tt_ops_gated_forward(act, n, gate, up, output(b, n));
}

static void gate_backward(bench_passes *b, tt_gate act) {
    size_t n = intermediate(b);
    const float *gate = input(b, n), *up = input(b, n), *d_y = input(b, n);
    float *d_gate = output(b, n), *d_up = output(b, n);
    tt_ops_gated_backward(act, n, gate, up, d_y, d_gate, d_up);
}

static void silu_forward(bench_passes *b) {
    gate_forward(b, TT_GATE_SILU);
}
static void silu_backward(bench_passes *b) {
    gate_backward(b, TT_GATE_SILU);
}
static void gelu_forward(bench_passes *b) {
    gate_forward(b, TT_GATE_GELU_TANH);
}
static void gelu_backward(bench_passes *b) {
    gate_backward(b, TT_GATE_GELU_TANH);
}

/* floats: read and written for a token. */
static const struct {
    const char *name;
    void (*run)(bench_passes *b);
    int floats;
} passes[] = {
    {"residual", residual, 3 * HIDDEN},
    {"norm forward", norm_forward, 2 * HIDDEN},
    {"norm backward", norm_backward, 4 * HIDDEN},
    {"rotation of q and k", rotate, 2 * (HEADS + KV_HEADS) * HEAD_DIM},
    {"silu gate forward", silu_forward, 3 * INTERMEDIATE},
    {"silu gate backward", silu_backward, 5 * INTERMEDIATE},
    {"gelu gate forward", gelu_forward, 3 * INTERMEDIATE},
    {"gelu gate backward", gelu_backward, 5 * INTERMEDIATE},
};
enum { N_PASSES = sizeof passes / sizeof *passes };

static tt_status create(const tt_bench_settings *s, bench_passes *b, tt_error *err) {
    size_t n = (size_t)s->n_tokens, n_table = (size_t)POSITIONS * HEAD_DIM / 2;
    double inv_freq[HEAD_DIM / 2];
    b->n_tokens = s->n_tokens;
    b->n_pool = 3 * n * INTERMEDIATE;
    if (b->n_pool < POOL_FLOATS) b->n_pool = POOL_FLOATS;
    TT_TRY(tt_gemm_create(s->n_threads, &b->gemm, err));
    b->in = tt_bench_floats(b->n_pool);
    b->out = tt_bench_floats(b->n_pool);
    b->weight = tt_bench_floats(HIDDEN);
    b->rstd = tt_bench_floats(n);
    b->cos_table = malloc(n_table * sizeof *b->cos_table);
    b->sin_table = malloc(n_table * sizeof *b->sin_table);
    b->positions = malloc(n * sizeof *b->positions);
    if (!b->in || !b->out || !b->weight || !b->rstd || !b->cos_table || !b->sin_table ||
        !b->positions)
        return tt_fail(err, TT_ERR_MEMORY, "no memory to measure passes over %d tokens",
                       s->n_tokens);
    for (int i = 0; i < HEAD_DIM / 2; i++) inv_freq[i] = pow(10000, -2.0 * i / HEAD_DIM);
    tt_ops_rope_table(POSITIONS, HEAD_DIM, inv_freq, 1, b->cos_table, b->sin_table);
    for (int t = 0; t < s->n_tokens; t++) b->positions[t] = t % POSITIONS;
    return TT_OK;
}

static void destroy(bench_passes *b) {
    tt_gemm_destroy(b->gemm);
    free(b->in), free(b->out), free(b->weight), free(b->rstd);
    free(b->cos_table), free(b->sin_table), free(b->positions);
}

/* a = b + s c, as STREAM counts: three floats an element. */
static void triad(bench_passes *b, int n_threads) {
    const float *x = input(b, TRIAD_FLOATS), *y = input(b, TRIAD_FLOATS);
    float *to = output(b, TRIAD_FLOATS);
#pragma omp parallel for simd num_threads(n_threads)
    for (size_t i = 0; i < TRIAD_FLOATS; i++) to[i] = x[i] + 0.5f * y[i];
}

/* The triad and all passes take turns. */
static void measure(const tt_bench_settings *s, bench_passes *b, tt_bench_rows *out) {
    tt_stopwatch limit = {0}, watch[N_PASSES] = {0};
    double end = tt_process_seconds() + s->seconds * (N_PASSES + 1);
    do {
        tt_bench_start(&limit);
        triad(b, s->n_threads);
        tt_bench_stop(&limit);
        for (int i = 0; i < N_PASSES; i++) {
            tt_bench_start(&watch[i]);
            passes[i].run(b);
            tt_bench_stop(&watch[i]);
        }
    } while (tt_process_seconds() < end);
    double stream = tt_bench_rate(&limit, 3.0 * TRIAD_FLOATS * sizeof *b->in);
    tt_bench_add(out, "stream triad", stream, "GB/s", 0);
    for (int i = 0; i < N_PASSES; i++) {
        double n_bytes = (double)b->n_tokens * passes[i].floats * sizeof *b->in;
        tt_bench_add(out, passes[i].name, tt_bench_rate(&watch[i], n_bytes), "GB/s", stream);
    }
}

tt_status tt_bench_passes(const tt_bench_settings *settings, tt_bench_rows *out, tt_error *err) {
    bench_passes b = {0};
    out->n = 0;
    tt_status status = create(settings, &b, err);
    if (status == TT_OK) measure(settings, &b, out);
    destroy(&b);
    return status;
}
