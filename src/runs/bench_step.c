#include "bench_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trimtab/rng.h"
#include "trimtab/stage.h"

enum { N_MATRICES = 7, FIRST_LAYER = 7, MAX_SEQS = 4 };

const tt_method tt_bench_method = {.form = TT_STEER_NONLINEAR,
                                   .sites = 1u << TT_SITE_POST_BLOCK,
                                   .rank = {.value = 8},
                                   .activation = TT_ACT_SILU,
                                   .scale = 1,
                                   .init_scale = 1e-3,
                                   .share_positions = true,
                                   .layers = "all"};

/* Layers of made-up weights, and everything a step through them needs. */
typedef struct bench_step {
    tt_spec spec;
    int n_tokens, n_seqs;
    tt_weights *weights;
    uint16_t *stored; /* all matrices of one layer: every layer reads them */
    tt_gemm *gemm;
    tt_adapter *adapter;
    tt_stage *stage;
    int32_t *positions; /* [n_tokens] */
    int32_t seq_start[MAX_SEQS + 1], prompt_len[MAX_SEQS];
    float *x, *y, *d, *d_in; /* [n_tokens x hidden] */
    float *a, *b, *c;        /* of the plain products; NULL without */
    tt_stopwatch forward, backward, plain[N_MATRICES];
    double peak;
} bench_step;

static void matrices_of(tt_layer_weights *w, tt_matrix *out[N_MATRICES]) {
    tt_matrix *all[N_MATRICES] = {&w->q, &w->k, &w->v, &w->o, &w->gate, &w->up, &w->down};
    memcpy(out, all, sizeof all);
}

static size_t layer_elements(const bench_step *b) {
    tt_matrix *matrices[N_MATRICES];
    size_t n = 0;
    matrices_of(&b->weights->layers[0], matrices);
    for (int i = 0; i < N_MATRICES; i++) n += (size_t)matrices[i]->rows * (size_t)matrices[i]->cols;
    return n;
}

static tt_status create_weights(bench_step *b, tt_error *err) {
    TT_TRY(
        tt_weights_create(&b->spec, FIRST_LAYER, TT_BENCH_LAYERS, false, false, &b->weights, err));
    size_t n_stored = layer_elements(b);
    b->stored = malloc(n_stored * sizeof *b->stored);
    if (!b->stored) return tt_fail(err, TT_ERR_MEMORY, "no memory to measure a layer");
    tt_bench_fill_bf16(n_stored, b->stored);
    for (size_t i = 0; i < b->weights->n_vector_floats; i++)
        b->weights->vectors[i] = 1 - b->spec.norm_offset;
    for (int l = 0; l < TT_BENCH_LAYERS; l++) {
        tt_matrix *matrices[N_MATRICES];
        const uint16_t *at = b->stored;
        matrices_of(&b->weights->layers[l], matrices);
        for (int i = 0; i < N_MATRICES; i++) {
            matrices[i]->data = at;
            at += (size_t)matrices[i]->rows * (size_t)matrices[i]->cols;
        }
    }
    return TT_OK;
}

static float *normal_floats(size_t n, uint64_t stream) {
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; x && i < n; i++) x[i] = (float)tt_rng_normal(1, stream, i);
    return x;
}

static tt_status create_arrays(bench_step *b, bool with_plain, tt_error *err) {
    size_t n = (size_t)b->n_tokens, hidden = (size_t)b->spec.hidden,
           wide = (size_t)b->spec.intermediate;
    b->positions = malloc(n * sizeof *b->positions);
    b->x = normal_floats(n * hidden, 2);
    b->d = normal_floats(n * hidden, 3);
    b->y = malloc(n * hidden * sizeof *b->y);
    b->d_in = malloc(n * hidden * sizeof *b->d_in);
    if (with_plain) {
        b->a = normal_floats(n * wide, 4);
        b->b = tt_bench_floats(hidden * wide);
        b->c = malloc(n * wide * sizeof *b->c);
    }
    if (!b->positions || !b->x || !b->d || !b->y || !b->d_in ||
        (with_plain && (!b->a || !b->b || !b->c)))
        return tt_fail(err, TT_ERR_MEMORY, "no memory to measure %d tokens", b->n_tokens);
    return TT_OK;
}

static tt_status create_step(const tt_bench_settings *s, bench_step *b, bool with_plain,
                             tt_error *err) {
    b->n_tokens = s->n_tokens;
    b->n_seqs = s->n_tokens < MAX_SEQS ? s->n_tokens : MAX_SEQS;
    TT_TRY(create_arrays(b, with_plain, err));
    tt_bench_cut(b->n_tokens, b->n_seqs, b->seq_start, b->prompt_len, b->positions);
    TT_TRY(create_weights(b, err));
    const tt_stage_shape shape = {.spec = &b->spec,
                                  .methods = &tt_bench_method,
                                  .n_methods = 1,
                                  .first_layer = FIRST_LAYER,
                                  .n_layers = TT_BENCH_LAYERS,
                                  .max_tokens = b->n_tokens,
                                  .max_seqs = b->n_seqs,
                                  .max_seq_length = b->n_tokens,
                                  .n_slots = 1,
                                  .n_threads = s->n_threads};
    TT_TRY(tt_gemm_create(s->n_threads, &b->gemm, err));
    if (s->bf16) TT_TRY(tt_gemm_use_bf16(b->gemm, err));
    TT_TRY(tt_adapter_create(&tt_bench_method, &b->spec, FIRST_LAYER, TT_BENCH_LAYERS, 1,
                             &b->adapter, err));
    return tt_stage_create(&shape, b->weights, b->gemm, &b->stage, err);
}

static void free_step(bench_step *b) {
    tt_stage_destroy(b->stage);
    tt_adapter_destroy(b->adapter);
    tt_gemm_destroy(b->gemm);
    tt_weights_close(b->weights);
    free(b->stored);
    free(b->positions);
    free(b->x);
    free(b->y);
    free(b->d);
    free(b->d_in);
    free(b->a);
    free(b->b);
    free(b->c);
}

/* Of one direction through all layers: the matrices, and attention's forward pass. */
static double matrix_flops(const bench_step *b) {
    return 2.0 * b->n_tokens * TT_BENCH_LAYERS * (double)layer_elements(b);
}

static double attention_flops(const bench_step *b) {
    int window = tt_spec_window(&b->spec, FIRST_LAYER);
    double visible = 0;
    for (int s = 0; s < b->n_seqs; s++)
        for (int t = 1; t <= b->prompt_len[s]; t++) visible += window && t > window ? window : t;
    return 2 * 2.0 * visible * b->spec.n_heads * b->spec.head_dim * TT_BENCH_LAYERS;
}

/* One plain product of each matrix's shape. */
static void run_plain(const tt_bench_settings *s, bench_step *b) {
    tt_matrix *matrices[N_MATRICES];
    matrices_of(&b->weights->layers[0], matrices);
    for (int i = 0; i < N_MATRICES; i++) {
        int rows = matrices[i]->rows, cols = matrices[i]->cols;
        tt_bench_start(&b->plain[i]);
        tt_gemm_f32(s->n_threads, false, true, b->n_tokens, rows, cols, 1, b->a, cols, b->b, cols,
                    0, b->c, rows);
        tt_bench_stop(&b->plain[i]);
    }
}

static void run_step(bench_step *b) {
    const tt_micro_batch mb = {.n_tokens = b->n_tokens,
                               .n_seqs = b->n_seqs,
                               .positions = b->positions,
                               .seq_start = b->seq_start,
                               .prompt_len = b->prompt_len,
                               .loss_scale = 1};
    const tt_stage_share share = {&mb, b->adapter, b->adapter};
    tt_bench_start(&b->forward);
    tt_stage_forward(b->stage, 0, &share, 1, b->x, b->y, NULL, NULL);
    tt_bench_stop(&b->forward);
    tt_bench_start(&b->backward);
    tt_stage_backward(b->stage, 0, b->d, b->d_in, NULL, NULL);
    tt_bench_stop(&b->backward);
}

/* prefix: what the rows' names begin with. */
static void add_rows(const bench_step *b, const char *prefix, double limit, tt_bench_rows *out) {
    double matrices = matrix_flops(b), attention = attention_flops(b);
    const tt_stopwatch step = {.best = b->forward.best + b->backward.best};
    const struct {
        const char *name;
        double rate;
    } rows[] = {
        {"step", tt_bench_rate(&step, 2 * matrices + 3 * attention)},
        {"step forward", tt_bench_rate(&b->forward, matrices + attention)},
        {"step backward", tt_bench_rate(&b->backward, matrices + 2 * attention)},
    };
    char name[2 * TT_BENCH_NAME_BYTES];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        snprintf(name, sizeof name, "%s%s", prefix, rows[i].name);
        tt_bench_add(out, name, rows[i].rate, "GFLOP/s", limit);
    }
    double model_s = step.best * b->spec.n_layers / TT_BENCH_LAYERS;
    snprintf(name, sizeof name, "%sstep tokens", prefix);
    tt_bench_add(out, name, model_s > 0 ? b->n_tokens / model_s : 0, "tokens/s", 0);
}

static double plain_rate(const bench_step *b) {
    double plain_s = 0;
    for (int i = 0; i < N_MATRICES; i++) plain_s += TT_BENCH_LAYERS * b->plain[i].best;
    return plain_s > 0 ? matrix_flops(b) / plain_s * 1e-9 : 0;
}

static tt_status measure(const tt_bench_settings *settings, bench_step *b, bool with_plain,
                         tt_bench_rows *out, tt_error *err) {
    TT_TRY(create_step(settings, b, with_plain, err));
    b->peak = tt_bench_fma_peak(settings->n_threads);
    double end = tt_process_seconds() + settings->seconds;
    do {
        tt_bench_peak_turn(settings->n_threads, &b->peak);
        if (with_plain) run_plain(settings, b);
        run_step(b);
    } while (tt_process_seconds() < end);
    if (with_plain) add_rows(b, "", plain_rate(b), out);
    char prefix[TT_BENCH_NAME_BYTES];
    snprintf(prefix, sizeof prefix, "%.30s ", b->spec.architecture);
    add_rows(b, prefix, b->peak, out);
    return TT_OK;
}

tt_status tt_bench_step(const tt_bench_settings *settings, tt_bench_rows *out, tt_error *err) {
    out->n = 0;
    for (int model = 0;;) {
        bench_step b = {0};
        TT_TRY(tt_bench_model(settings, &model, &b.spec, err));
        if (b.spec.n_layers == 0) return TT_OK;
        tt_status status = measure(settings, &b, model == 1, out, err);
        free_step(&b);
        TT_TRY(status);
    }
}
