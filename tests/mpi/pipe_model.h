/* A tiny random Llama in memory, and random packed micro-batches: what pipeline tests run on. Every
 * rank makes the same ones. */
#ifndef TRIMTAB_PIPE_MODEL_H
#define TRIMTAB_PIPE_MODEL_H

#include <stdlib.h>
#include <string.h>

#include "trimtab/adapter.h"
#include "trimtab/batch.h"
#include "trimtab/rng.h"
#include "trimtab/weights.h"

enum {
    PIPE_LAYERS = 4,
    PIPE_HIDDEN = 16,
    PIPE_INTERMEDIATE = 24,
    PIPE_VOCAB = 29,
    PIPE_HEADS = 4,
    PIPE_KV_HEADS = 2,
    PIPE_HEAD_DIM = 4,
    PIPE_TOKENS = 24, /* most of a micro-batch */
    PIPE_SEQS = 3,
    PIPE_MICRO = 12
};

static const tt_spec pipe_spec = {.model_type = "llama",
                                  .n_layers = PIPE_LAYERS,
                                  .hidden = PIPE_HIDDEN,
                                  .intermediate = PIPE_INTERMEDIATE,
                                  .vocab = PIPE_VOCAB,
                                  .max_positions = 64,
                                  .n_heads = PIPE_HEADS,
                                  .n_kv_heads = PIPE_KV_HEADS,
                                  .head_dim = PIPE_HEAD_DIM,
                                  .norm_eps = 1e-5,
                                  .rotary_dim = PIPE_HEAD_DIM,
                                  .attention_scale = 0.5,
                                  .embed_scale = 1,
                                  .residual_scale = 1,
                                  .logit_scale = 1,
                                  .rope = {.kind = TT_ROPE_DEFAULT, .theta = 10000},
                                  .bos_id = 1};

typedef struct pipe_model {
    float *numbers; /* all tensors, one after the other */
    size_t n_used;
    tt_layer_weights layers[PIPE_LAYERS];
    tt_matrix embed, head;
    float *final_norm;
} pipe_model;

static float *pipe_take(pipe_model *m, size_t n, double mean, double spread) {
    float *x = m->numbers + m->n_used;
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(mean + spread * tt_rng_normal(7, 1, m->n_used + i));
    m->n_used += n;
    return x;
}

static tt_matrix pipe_matrix(pipe_model *m, int rows, int cols) {
    float *x = pipe_take(m, (size_t)rows * (size_t)cols, 0, 0.3);
    return (tt_matrix){.data = x, .dtype = TT_DTYPE_F32, .rows = rows, .cols = cols};
}

/* Freed by free(model.numbers). */
static bool pipe_model_make(pipe_model *m) {
    int q = PIPE_HEADS * PIPE_HEAD_DIM, kv = PIPE_KV_HEADS * PIPE_HEAD_DIM, h = PIPE_HIDDEN;
    *m = (pipe_model){.numbers = malloc(100000 * sizeof(float))};
    if (!m->numbers) return false;
    for (int l = 0; l < PIPE_LAYERS; l++)
        m->layers[l] = (tt_layer_weights){.q = pipe_matrix(m, q, h),
                                          .k = pipe_matrix(m, kv, h),
                                          .v = pipe_matrix(m, kv, h),
                                          .o = pipe_matrix(m, h, q),
                                          .gate = pipe_matrix(m, PIPE_INTERMEDIATE, h),
                                          .up = pipe_matrix(m, PIPE_INTERMEDIATE, h),
                                          .down = pipe_matrix(m, h, PIPE_INTERMEDIATE),
                                          .attn_norm = pipe_take(m, (size_t)h, 1, 0.1),
                                          .mlp_norm = pipe_take(m, (size_t)h, 1, 0.1)};
    m->embed = pipe_matrix(m, PIPE_VOCAB, h);
    m->head = pipe_matrix(m, PIPE_VOCAB, h);
    m->final_norm = pipe_take(m, (size_t)h, 1, 0.1);
    return m->n_used <= 100000;
}

/* Views of a share; borrows the model. */
static tt_weights pipe_share(pipe_model *m, int first_layer, int n_layers) {
    tt_weights w = {
        .first_layer = first_layer, .n_layers = n_layers, .layers = m->layers + first_layer};
    if (first_layer == 0) w.embed = m->embed;
    if (first_layer + n_layers == PIPE_LAYERS) {
        w.head = m->head;
        w.final_norm = m->final_norm;
    }
    return w;
}

/* Storage of one micro-batch. */
typedef struct pipe_batch {
    int32_t ids[PIPE_TOKENS], positions[PIPE_TOKENS], seq_start[PIPE_SEQS + 1];
    int32_t prompt_len[PIPE_SEQS], target_row[PIPE_TOKENS], target_id[PIPE_TOKENS];
} pipe_batch;

/* Micro-batch number i: 1 .. PIPE_SEQS sequences of 2 .. 8 tokens, prompt of at least one. */
static inline tt_micro_batch pipe_batch_make(pipe_batch *b, uint64_t i) {
    tt_micro_batch mb = {.ids = b->ids,
                         .positions = b->positions,
                         .seq_start = b->seq_start,
                         .prompt_len = b->prompt_len,
                         .target_row = b->target_row,
                         .target_id = b->target_id,
                         .loss_scale = 1.0f / 64};
    uint64_t draw = 0;
    mb.n_seqs = 1 + (int)tt_rng_below(3, i, draw++, PIPE_SEQS);
    for (int s = 0; s < mb.n_seqs; s++) {
        int n = 2 + (int)tt_rng_below(3, i, draw++, 7);
        b->seq_start[s] = mb.n_tokens;
        b->prompt_len[s] = 1 + (int32_t)tt_rng_below(3, i, draw++, (uint64_t)n - 1);
        for (int t = 0; t < n; t++, mb.n_tokens++) {
            b->ids[mb.n_tokens] = (int32_t)tt_rng_below(3, i, draw++, PIPE_VOCAB);
            b->positions[mb.n_tokens] = t;
            if (t < b->prompt_len[s]) continue;
            b->target_row[mb.n_targets] = mb.n_tokens - 1;
            b->target_id[mb.n_targets++] = b->ids[mb.n_tokens];
        }
    }
    b->seq_start[mb.n_seqs] = mb.n_tokens;
    return mb;
}

#endif
