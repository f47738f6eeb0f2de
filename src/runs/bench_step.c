#include "bench_private.h"

#include <stdlib.h>
#include <string.h>

#include "trimtab/rng.h"
#include "trimtab/stage.h"

enum { N_MATRICES = 7, FIRST_LAYER = 7, MAX_SEQS = 4 };

static const tt_spec spec = {.model_type = "llama",
                             .n_layers = 16,
                             .hidden = 2048,
                             .intermediate = 8192,
                             .vocab = 128256,
                             .max_positions = 131072,
                             .n_heads = 32,
                             .n_kv_heads = 8,
                             .head_dim = 64,
                             .norm_eps = 1e-5,
                             .rotary_dim = 64,
                             .attention_scale = 0.125,
                             .embed_scale = 1,
                             .residual_scale = 1,
                             .logit_scale = 1,
                             .rope = {.kind = TT_ROPE_DEFAULT, .theta = 500000},
                             .tied_head = true};

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
    int n_tokens, n_seqs;
    tt_layer_weights layers[TT_BENCH_LAYERS];
    tt_weights weights;
    uint16_t *stored; /* all matrices of all layers */
    float *norm;      /* [hidden] of ones */
    tt_gemm *gemm;
    tt_adapter *adapter;
    tt_stage *stage;
    int32_t *positions; /* [n_tokens] */
    int32_t seq_start[MAX_SEQS + 1], prompt_len[MAX_SEQS];
    float *x, *y, *d, *d_in; /* [n_tokens x hidden] */
    float *a, *b, *c;        /* of the plain products */
} bench_step;

static void matrices_of(tt_layer_weights *w, tt_matrix *out[N_MATRICES]) {
    tt_matrix *all[N_MATRICES] = {&w->q, &w->k, &w->v, &w->o, &w->gate, &w->up, &w->down};
    memcpy(out, all, sizeof all);
}

static void shape_layer(tt_layer_weights *w) {
    int qw = spec.n_heads * spec.head_dim, kw = spec.n_kv_heads * spec.head_dim;
    const int rows[N_MATRICES] = {
        qw, kw, kw, spec.hidden, spec.intermediate, spec.intermediate, spec.hidden};
    const int cols[N_MATRICES] = {spec.hidden, spec.hidden, spec.hidden,      qw,
                                  spec.hidden, spec.hidden, spec.intermediate};
    tt_matrix *matrices[N_MATRICES];
    matrices_of(w, matrices);
    for (int i = 0; i < N_MATRICES; i++)
        *matrices[i] = (tt_matrix){.dtype = TT_DTYPE_BF16, .rows = rows[i], .cols = cols[i]};
}

static size_t elements(const tt_matrix *w) {
    return (size_t)w->rows * (size_t)w->cols;
}

static size_t layer_elements(tt_layer_weights *w) {
    tt_matrix *matrices[N_MATRICES];
    size_t n = 0;
    matrices_of(w, matrices);
    for (int i = 0; i < N_MATRICES; i++) n += elements(matrices[i]);
    return n;
}

/* bf16 numbers of both signs between 2^-8 and 2^-5, so that layers neither grow nor vanish. */
static void fill_stored(size_t n, uint16_t *out) {
    for (size_t i = 0; i < n; i += 4) {
        uint64_t bits = tt_rng_bits(1, 1, i);
        for (size_t k = i; k < n && k < i + 4; k++, bits >>= 16)
            out[k] = (uint16_t)((bits & 0x807f) | ((119 + ((bits >> 8) & 3) % 3) << 7));
    }
}

static void point_layers(bench_step *b) {
    uint16_t *at = b->stored;
    for (int l = 0; l < TT_BENCH_LAYERS; l++) {
        tt_matrix *matrices[N_MATRICES];
        matrices_of(&b->layers[l], matrices);
        for (int i = 0; i < N_MATRICES; i++) {
            matrices[i]->data = at;
            at += elements(matrices[i]);
        }
        b->layers[l].attn_norm = b->layers[l].mlp_norm = b->norm;
    }
    b->weights =
        (tt_weights){.first_layer = FIRST_LAYER, .n_layers = TT_BENCH_LAYERS, .layers = b->layers};
}

static float *normal_floats(size_t n, uint64_t stream) {
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; x && i < n; i++) x[i] = (float)tt_rng_normal(1, stream, i);
    return x;
}

static tt_status create_arrays(bench_step *b, tt_error *err) {
    size_t n = (size_t)b->n_tokens, hidden = (size_t)spec.hidden, wide = (size_t)spec.intermediate;
    size_t n_stored = TT_BENCH_LAYERS * layer_elements(&b->layers[0]);
    b->stored = malloc(n_stored * sizeof *b->stored);
    b->norm = malloc(hidden * sizeof *b->norm);
    b->positions = malloc(n * sizeof *b->positions);
    b->x = normal_floats(n * hidden, 2);
    b->d = normal_floats(n * hidden, 3);
    b->y = malloc(n * hidden * sizeof *b->y);
    b->d_in = malloc(n * hidden * sizeof *b->d_in);
    b->a = normal_floats(n * wide, 4);
    b->b = normal_floats(hidden * wide, 5);
    b->c = malloc(n * wide * sizeof *b->c);
    if (!b->stored || !b->norm || !b->positions || !b->x || !b->d || !b->y || !b->d_in || !b->a ||
        !b->b || !b->c)
        return tt_fail(err, TT_ERR_MEMORY, "no memory to measure %d layers", TT_BENCH_LAYERS);
    fill_stored(n_stored, b->stored);
    for (size_t i = 0; i < hidden; i++) b->norm[i] = 1;
    point_layers(b);
    return TT_OK;
}

static void pack(bench_step *b) {
    for (int s = 0; s <= b->n_seqs; s++)
        b->seq_start[s] = (int32_t)((int64_t)b->n_tokens * s / b->n_seqs);
    for (int s = 0; s < b->n_seqs; s++) {
        b->prompt_len[s] = b->seq_start[s + 1] - b->seq_start[s];
        for (int32_t t = b->seq_start[s]; t < b->seq_start[s + 1]; t++)
            b->positions[t] = t - b->seq_start[s];
    }
}

static tt_status create_step(const tt_bench_settings *s, bench_step *b, tt_error *err) {
    *b = (bench_step){.n_tokens = s->n_tokens,
                      .n_seqs = s->n_tokens < MAX_SEQS ? s->n_tokens : MAX_SEQS};
    for (int l = 0; l < TT_BENCH_LAYERS; l++) shape_layer(&b->layers[l]);
    TT_TRY(create_arrays(b, err));
    pack(b);
    const tt_stage_shape shape = {.spec = &spec,
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
    TT_TRY(tt_adapter_create(&tt_bench_method, &spec, FIRST_LAYER, TT_BENCH_LAYERS, 1, &b->adapter,
                             err));
    return tt_stage_create(&shape, &b->weights, b->gemm, &b->stage, err);
}

static void free_step(bench_step *b) {
    tt_stage_destroy(b->stage);
    tt_adapter_destroy(b->adapter);
    tt_gemm_destroy(b->gemm);
    free(b->stored);
    free(b->norm);
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
static double matrix_flops(bench_step *b) {
    return 2.0 * b->n_tokens * TT_BENCH_LAYERS * (double)layer_elements(&b->layers[0]);
}

static double attention_flops(const bench_step *b) {
    double visible = 0;
    for (int s = 0; s < b->n_seqs; s++)
        visible += (double)b->prompt_len[s] * (b->prompt_len[s] + 1) / 2;
    return 2 * 2.0 * visible * spec.n_heads * spec.head_dim * TT_BENCH_LAYERS;
}

/* One plain product of each matrix's shape. */
static void run_plain(const tt_bench_settings *s, bench_step *b, tt_stopwatch w[N_MATRICES]) {
    tt_matrix *matrices[N_MATRICES];
    matrices_of(&b->layers[0], matrices);
    for (int i = 0; i < N_MATRICES; i++) {
        int rows = matrices[i]->rows, cols = matrices[i]->cols;
        tt_bench_start(&w[i]);
        tt_gemm_f32(s->n_threads, false, true, b->n_tokens, rows, cols, 1, b->a, cols, b->b, cols,
                    0, b->c, rows);
        tt_bench_stop(&w[i]);
    }
}

static void run_step(bench_step *b, tt_stopwatch *forward, tt_stopwatch *backward) {
    const tt_micro_batch mb = {.n_tokens = b->n_tokens,
                               .n_seqs = b->n_seqs,
                               .positions = b->positions,
                               .seq_start = b->seq_start,
                               .prompt_len = b->prompt_len,
                               .loss_scale = 1};
    const tt_stage_share share = {&mb, b->adapter, b->adapter};
    tt_bench_start(forward);
    tt_stage_forward(b->stage, 0, &share, 1, b->x, b->y, NULL, NULL);
    tt_bench_stop(forward);
    tt_bench_start(backward);
    tt_stage_backward(b->stage, 0, b->d, b->d_in, NULL, NULL);
    tt_bench_stop(backward);
}

static void add_rows(bench_step *b, const tt_stopwatch *forward, const tt_stopwatch *backward,
                     const tt_stopwatch plain[N_MATRICES], tt_bench_rows *out) {
    double matrices = matrix_flops(b), attention = attention_flops(b), plain_s = 0;
    for (int i = 0; i < N_MATRICES; i++) plain_s += TT_BENCH_LAYERS * plain[i].best;
    double limit = plain_s > 0 ? matrices / plain_s * 1e-9 : 0;
    tt_stopwatch step = {.best = forward->best + backward->best};
    tt_bench_add(out, "step", tt_bench_rate(&step, 2 * matrices + 3 * attention), "GFLOP/s", limit);
    tt_bench_add(out, "step forward", tt_bench_rate(forward, matrices + attention), "GFLOP/s",
                 limit);
    tt_bench_add(out, "step backward", tt_bench_rate(backward, matrices + 2 * attention), "GFLOP/s",
                 limit);
    double model_s = step.best * spec.n_layers / TT_BENCH_LAYERS;
    tt_bench_add(out, "step tokens", model_s > 0 ? b->n_tokens / model_s : 0, "tokens/s", 0);
}

tt_status tt_bench_step(const tt_bench_settings *settings, tt_bench_rows *out, tt_error *err) {
    bench_step b;
    out->n = 0;
    tt_status status = create_step(settings, &b, err);
    if (status == TT_OK) {
        tt_stopwatch forward = {0}, backward = {0}, plain[N_MATRICES] = {0};
        double end = tt_process_seconds() + settings->seconds;
        do {
            run_plain(settings, &b, plain);
            run_step(&b, &forward, &backward);
        } while (tt_process_seconds() < end);
        add_rows(&b, &forward, &backward, plain, out);
    }
    free_step(&b);
    return status;
}
