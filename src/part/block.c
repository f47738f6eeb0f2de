#include "trimtab/block.h"

#include <string.h>

static void copy_rows(const tt_block_call *call, const float *from, float *to) {
    size_t n = (size_t)call->n_tokens * (size_t)call->spec->hidden;
    if (from != to) memcpy(to, from, n * sizeof *to);
}

static void rotate(const tt_block_call *call, bool inverse, float *q, float *k) {
    const tt_spec *spec = call->spec;
    tt_ops_rope(call->n_tokens, spec->n_heads, spec->head_dim, call->positions, call->rope_cos,
                call->rope_sin, inverse, q);
    tt_ops_rope(call->n_tokens, spec->n_kv_heads, spec->head_dim, call->positions, call->rope_cos,
                call->rope_sin, inverse, k);
}

/* Copies the call's keys (or values) behind each sequence's earlier ones. */
static void append(const tt_block_call *call, const float *rows, float *cache) {
    size_t width = (size_t)call->spec->n_kv_heads * (size_t)call->spec->head_dim;
    for (int s = 0; s < call->attention.n_seqs; s++) {
        const tt_attention_seq *seq = &call->attention.seqs[s];
        size_t to = seq->kv_start + (size_t)(seq->n_kv - seq->n_q);
        memcpy(cache + to * width, rows + (size_t)seq->q_start * width,
               (size_t)seq->n_q * width * sizeof *cache);
    }
}

static void attention_forward(const tt_block_call *call, const tt_layer_weights *w,
                              const tt_block_acts *acts, const tt_block_cache *cache,
                              const float *x, float *mid) {
    int n = call->n_tokens;
    const float *k = acts->k, *v = acts->v;
    tt_ops_rmsnorm_forward(n, call->spec->hidden, call->spec->norm_eps, x, w->attn_norm,
                           call->normed, acts->rstd_attn);
    tt_gemm_forward(call->gemm, n, call->normed, &w->q, w->q_bias, false, acts->q);
    tt_gemm_forward(call->gemm, n, call->normed, &w->k, w->k_bias, false, acts->k);
    tt_gemm_forward(call->gemm, n, call->normed, &w->v, w->v_bias, false, acts->v);
    rotate(call, false, acts->q, acts->k);
    if (cache->k) {
        append(call, acts->k, cache->k);
        append(call, acts->v, cache->v);
        k = cache->k, v = cache->v;
    }
    tt_ops_attention_forward(call->gemm, &call->attention, acts->q, k, v, acts->att, acts->lse,
                             call->attention_scratch);
    copy_rows(call, x, mid);
    tt_gemm_forward(call->gemm, n, acts->att, &w->o, w->o_bias, true, mid);
}

static void mlp_forward(const tt_block_call *call, const tt_layer_weights *w,
                        const tt_block_acts *acts, const float *mid, float *h) {
    int n = call->n_tokens;
    tt_ops_rmsnorm_forward(n, call->spec->hidden, call->spec->norm_eps, mid, w->mlp_norm,
                           call->normed, acts->rstd_mlp);
    tt_gemm_forward(call->gemm, n, call->normed, &w->gate, w->gate_bias, false, acts->gate);
    tt_gemm_forward(call->gemm, n, call->normed, &w->up, w->up_bias, false, acts->up);
    tt_ops_swiglu_forward((size_t)n * (size_t)call->spec->intermediate, acts->gate, acts->up,
                          acts->act);
    copy_rows(call, mid, h);
    tt_gemm_forward(call->gemm, n, acts->act, &w->down, w->down_bias, true, h);
}

void tt_block_forward(const tt_block_call *call, const tt_layer_weights *w,
                      const tt_block_acts *acts, const tt_block_cache *cache, const float *x,
                      float *mid, float *h) {
    attention_forward(call, w, acts, cache, x, mid);
    mlp_forward(call, w, acts, mid, h);
}

/* d = d_h in, d_mid out: the residual path keeps d, the MLP path is added to it. */
static void mlp_backward(const tt_block_call *call, const tt_layer_weights *w,
                         const tt_block_acts *acts, const tt_block_acts *work, const float *mid,
                         float *d) {
    int n = call->n_tokens;
    float *d_gate = acts->gate, *d_up = work->up, *d_normed = call->normed;
    tt_gemm_backward(call->gemm, n, d, &w->down, false, d_up);
    tt_ops_swiglu_backward((size_t)n * (size_t)call->spec->intermediate, acts->gate, acts->up, d_up,
                           d_gate, d_up);
    tt_gemm_backward(call->gemm, n, d_gate, &w->gate, false, d_normed);
    tt_gemm_backward(call->gemm, n, d_up, &w->up, true, d_normed);
    tt_ops_rmsnorm_backward(n, call->spec->hidden, mid, w->mlp_norm, acts->rstd_mlp, d_normed, d);
}

/* d = d_mid in, d_x out. */
static void attention_backward(const tt_block_call *call, const tt_layer_weights *w,
                               const tt_block_acts *acts, const tt_block_acts *work, const float *x,
                               float *d) {
    int n = call->n_tokens;
    float *d_normed = call->normed;
    tt_gemm_backward(call->gemm, n, d, &w->o, false, work->att);
    tt_ops_attention_backward(call->gemm, &call->attention, acts->q, acts->k, acts->v, acts->att,
                              acts->lse, work->att, work->q, work->k, work->v,
                              call->attention_scratch);
    rotate(call, true, work->q, work->k);
    tt_gemm_backward(call->gemm, n, work->q, &w->q, false, d_normed);
    tt_gemm_backward(call->gemm, n, work->k, &w->k, true, d_normed);
    tt_gemm_backward(call->gemm, n, work->v, &w->v, true, d_normed);
    tt_ops_rmsnorm_backward(n, call->spec->hidden, x, w->attn_norm, acts->rstd_attn, d_normed, d);
}

void tt_block_backward(const tt_block_call *call, const tt_layer_weights *w,
                       const tt_block_acts *acts, const tt_block_acts *work, const float *x,
                       const float *mid, float *d) {
    mlp_backward(call, w, acts, work, mid, d);
    attention_backward(call, w, acts, work, x, d);
}
