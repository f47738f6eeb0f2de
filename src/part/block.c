#include "trimtab/block.h"

#include <string.h>

static void copy_rows(const tt_block_call *call, const float *from, float *to) {
    size_t n = (size_t)call->n_tokens * (size_t)call->spec->hidden;
    if (from != to) memcpy(to, from, n * sizeof *to);
}

static bool is_steered_at(const tt_block_steer *steer, tt_site site) {
    return steer->adapter && steer->adapter->method.site == site;
}

/* Where the site's tensor is put: kept for backward, or replaced where it stands. */
static float *at_site(const tt_block_steer *steer, tt_site site, float *in_place) {
    return is_steered_at(steer, site) && steer->h ? steer->h : in_place;
}

static void steer_forward(const tt_block_call *call, const tt_block_steer *steer, tt_site site,
                          const float *from, float *to) {
    if (is_steered_at(steer, site))
        tt_adapter_forward(steer->adapter, call->gemm, steer->layer, call->n_tokens, steer->rows,
                           steer->n_rows, from, to, steer->z, steer->scratch);
}

/* d: gradient behind the site in, before it out. True: backward ends here. */
static bool steer_backward(const tt_block_call *call, const tt_block_steer *steer, tt_site site,
                           float *d) {
    if (!is_steered_at(steer, site)) return false;
    tt_adapter_backward(steer->trained, call->gemm, steer->layer, call->n_tokens, steer->rows,
                        steer->n_rows, steer->h, steer->z, d, steer->scratch);
    return steer->ends;
}

/* to = from + x W^T + b, where the product is the tensor at the site. */
static void add_branch(const tt_block_call *call, const tt_block_steer *steer, tt_site site,
                       const tt_matrix *w, const float *bias, const float *x, const float *from,
                       float *to) {
    copy_rows(call, from, to);
    if (!is_steered_at(steer, site)) {
        tt_gemm_forward(call->gemm, call->n_tokens, x, w, bias, true, to);
        return;
    }
    float *branch = call->normed, *before = at_site(steer, site, branch);
    tt_gemm_forward(call->gemm, call->n_tokens, x, w, bias, false, before);
    steer_forward(call, steer, site, before, branch);
    tt_ops_add((size_t)call->n_tokens * (size_t)call->spec->hidden, branch, to);
}

/* Gradient of the branch that add_branch added, from d, that of its result: d itself, or behind the
 * map a copy. NULL: backward ends here. */
static const float *branch_gradient(const tt_block_call *call, const tt_block_steer *steer,
                                    tt_site site, const float *d) {
    if (!is_steered_at(steer, site)) return d;
    copy_rows(call, d, call->normed);
    return steer_backward(call, steer, site, call->normed) ? NULL : call->normed;
}

bool tt_block_site_is_below_mlp(tt_site site) {
    return site == TT_SITE_MLP_INPUT || site == TT_SITE_PRE_MLP;
}

bool tt_block_site_is_below_norm(tt_site site) {
    return site == TT_SITE_PRE_MLP;
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
                              const tt_block_steer *steer, const float *x, float *mid) {
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
    add_branch(call, steer, TT_SITE_PRE_MLP, &w->o, w->o_bias, acts->att, x, mid);
}

static void mlp_forward(const tt_block_call *call, const tt_layer_weights *w,
                        const tt_block_acts *acts, const tt_block_steer *steer, const float *mid,
                        float *h) {
    int n = call->n_tokens;
    float *input = at_site(steer, TT_SITE_MLP_INPUT, call->normed);
    tt_ops_rmsnorm_forward(n, call->spec->hidden, call->spec->norm_eps, mid, w->mlp_norm, input,
                           acts->rstd_mlp);
    steer_forward(call, steer, TT_SITE_MLP_INPUT, input, call->normed);
    tt_gemm_forward(call->gemm, n, call->normed, &w->gate, w->gate_bias, false, acts->gate);
    tt_gemm_forward(call->gemm, n, call->normed, &w->up, w->up_bias, false, acts->up);
    tt_ops_swiglu_forward((size_t)n * (size_t)call->spec->intermediate, acts->gate, acts->up,
                          acts->act);
    add_branch(call, steer, TT_SITE_POST_MLP, &w->down, w->down_bias, acts->act, mid, h);
}

void tt_block_forward(const tt_block_call *call, const tt_layer_weights *w,
                      const tt_block_acts *acts, const tt_block_cache *cache,
                      const tt_block_steer *steer, const float *x, float *mid, float *h) {
    float *before = at_site(steer, TT_SITE_POST_BLOCK, h);
    attention_forward(call, w, acts, cache, steer, x, mid);
    mlp_forward(call, w, acts, steer, mid, before);
    steer_forward(call, steer, TT_SITE_POST_BLOCK, before, h);
}

/* d = d_h in, d_mid out: the residual path keeps d, the MLP path is added to it. True: backward
 * ended at a site on the way. */
static bool mlp_backward(const tt_block_call *call, const tt_layer_weights *w,
                         const tt_block_acts *acts, const tt_block_acts *work,
                         const tt_block_steer *steer, const float *mid, float *d) {
    int n = call->n_tokens;
    float *d_gate = acts->gate, *d_up = work->up, *d_normed = call->normed;
    const float *d_out = branch_gradient(call, steer, TT_SITE_POST_MLP, d);
    if (!d_out) return true;
    tt_gemm_backward(call->gemm, n, d_out, &w->down, false, d_up);
    tt_ops_swiglu_backward((size_t)n * (size_t)call->spec->intermediate, acts->gate, acts->up, d_up,
                           d_gate, d_up);
    tt_gemm_backward(call->gemm, n, d_gate, &w->gate, false, d_normed);
    tt_gemm_backward(call->gemm, n, d_up, &w->up, true, d_normed);
    if (steer_backward(call, steer, TT_SITE_MLP_INPUT, d_normed)) return true;
    tt_ops_rmsnorm_backward(n, call->spec->hidden, mid, w->mlp_norm, acts->rstd_mlp, d_normed, d);
    return false;
}

/* d = d_mid in, d_x out. */
static void attention_backward(const tt_block_call *call, const tt_layer_weights *w,
                               const tt_block_acts *acts, const tt_block_acts *work,
                               const tt_block_steer *steer, const float *x, float *d) {
    int n = call->n_tokens;
    float *d_normed = call->normed;
    const float *d_out = branch_gradient(call, steer, TT_SITE_PRE_MLP, d);
    if (!d_out) return;
    tt_gemm_backward(call->gemm, n, d_out, &w->o, false, work->att);
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
                       const tt_block_acts *acts, const tt_block_acts *work,
                       const tt_block_steer *steer, const float *x, const float *mid, float *d) {
    if (steer_backward(call, steer, TT_SITE_POST_BLOCK, d)) return;
    if (mlp_backward(call, w, acts, work, steer, mid, d)) return;
    attention_backward(call, w, acts, work, steer, x, d);
}
