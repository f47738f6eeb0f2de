#include "block_private.h"

#include <string.h>

static void copy_rows(const tt_block_call *call, const float *from, float *to) {
    size_t n = (size_t)call->n_tokens * (size_t)call->spec->hidden;
    if (from != to) memcpy(to, from, n * sizeof *to);
}

bool tt_block_acts_at(const tt_block_adapt *adapt, tt_point point) {
    for (int i = 0; i < adapt->n_shares; i++) {
        const tt_adapter *adapter = adapt->shares[i].adapter;
        if (adapter && tt_adapter_acts(adapter, adapt->layer, point)) return true;
    }
    return false;
}

/* Where nothing is changed there may still be gradients to add. */
static bool changes(const tt_block_adapt *adapt, tt_point point) {
    for (int i = 0; i < adapt->n_shares; i++) {
        const tt_adapter *adapter = adapt->shares[i].adapter;
        if (adapter && tt_adapter_changes(adapter, adapt->layer, point)) return true;
    }
    return false;
}

tt_block_kept tt_block_kept_at(const tt_block_adapt *adapt, tt_point point) {
    return adapt->kept ? adapt->kept[point] : (tt_block_kept){0};
}

/* A share at a point where it acts: its rows begin at from row `first` of every tensor. */
typedef struct acting {
    const tt_block_share *share;
    tt_adapter_call call;
    float *saved;
    size_t first;
} acting;

static bool find_acting(const tt_block_adapt *adapt, tt_point point, int i, acting *out) {
    const tt_block_share *share = &adapt->shares[i];
    if (!share->adapter || !tt_adapter_acts(share->adapter, adapt->layer, point)) return false;
    const tt_block_kept kept = tt_block_kept_at(adapt, point);
    *out = (acting){.share = share, .call = share->call, .first = (size_t)share->first_token};
    out->call.layer = adapt->layer;
    if (kept.saved) out->saved = kept.saved + out->first * kept.saved_a_row;
    return true;
}

/* Where the site's tensor is put: kept for backward, or replaced where it stands. */
static float *at_site(const tt_block_adapt *adapt, tt_point site, float *in_place) {
    float *input = tt_block_acts_at(adapt, site) ? tt_block_kept_at(adapt, site).input : NULL;
    return input ? input : in_place;
}

static size_t site_width(const tt_block_call *call, tt_point site) {
    const tt_spec *spec = call->spec;
    return (size_t)(site == TT_POINT_HEADS ? spec->n_heads * spec->head_dim : spec->hidden);
}

/* keeps: what units keep for backward is wanted. */
static void map_site(const tt_block_call *call, const tt_block_adapt *adapt, tt_point site,
                     const float *from, float *to, bool keeps) {
    size_t width = site_width(call, site);
    if (!tt_block_acts_at(adapt, site)) return;
    for (int i = 0; i < adapt->n_shares; i++) {
        acting a;
        const tt_block_share *share = &adapt->shares[i];
        size_t at = (size_t)share->first_token * width;
        if (find_acting(adapt, site, i, &a))
            tt_adapter_forward(share->adapter, &a.call, site, from + at, to + at,
                               keeps ? a.saved : NULL);
        else if (from != to)
            memcpy(to + at, from + at, (size_t)share->call.n_tokens * width * sizeof *to);
    }
}

static void site_forward(const tt_block_call *call, const tt_block_adapt *adapt, tt_point site,
                         const float *from, float *to) {
    map_site(call, adapt, site, from, to, true);
}

/* d: gradient behind the site in, before it out. h: the site's tensor, which may be NULL where no
 * unit reads it. True: backward ends here. */
static bool site_backward(const tt_block_call *call, const tt_block_adapt *adapt, tt_point site,
                          const float *h, float *d) {
    size_t width = site_width(call, site);
    for (int i = 0; i < adapt->n_shares; i++) {
        acting a;
        if (!find_acting(adapt, site, i, &a)) continue;
        tt_adapter_backward(a.share->trained, &a.call, site, h ? h + a.first * width : NULL,
                            a.saved, d + a.first * width);
    }
    return adapt->ends == site;
}

void tt_block_product(const tt_block_call *call, const tt_block_adapt *adapt, tt_point point,
                      const tt_matrix *w, const float *bias, const float *x, float *y) {
    bool adapted = changes(adapt, point);
    tt_gemm_forward(call->gemm, call->n_tokens, x, w, adapted ? NULL : bias, false, y);
    if (!adapted) return;
    for (int i = 0; i < adapt->n_shares; i++) {
        acting a;
        if (find_acting(adapt, point, i, &a))
            tt_adapter_product_forward(a.share->adapter, &a.call, point, w,
                                       x + a.first * (size_t)w->cols, y + a.first * (size_t)w->rows,
                                       a.saved);
    }
    if (bias) tt_ops_add_rows(call->n_tokens, w->rows, bias, y);
}

void tt_block_product_backward(const tt_block_call *call, const tt_block_adapt *adapt,
                               tt_point point, const tt_matrix *w, const float *x, float *d_y,
                               bool accumulate, float *d_x) {
    bool adds = changes(adapt, point);
    if (d_x && adds && !accumulate)
        memset(d_x, 0, (size_t)call->n_tokens * (size_t)w->cols * sizeof *d_x);
    for (int i = 0; i < adapt->n_shares; i++) {
        acting a;
        if (!find_acting(adapt, point, i, &a)) continue;
        size_t at = a.first * (size_t)w->cols;
        tt_adapter_product_backward(a.share->trained, &a.call, point, w, x + at, a.saved,
                                    d_y + a.first * (size_t)w->rows, d_x ? d_x + at : NULL);
    }
    if (d_x) tt_gemm_backward(call->gemm, call->n_tokens, d_y, w, accumulate || adds, d_x);
}

/* --- Rows that go on ---------------------------------------------------------------------------
 */

/* The call as it is behind keys and values; and its adapters. */
static tt_block_call call_of_few(const tt_block_call *call) {
    tt_block_call few = *call;
    if (!call->few) return few;
    few.n_tokens = call->few->n;
    few.rope_rows = call->few->rope_rows;
    few.attention.seqs = call->few->seqs;
    few.few = NULL;
    return few;
}

static tt_block_adapt adapt_of_few(const tt_block_call *call, const tt_block_adapt *adapt) {
    tt_block_adapt few = *adapt;
    if (call->few) few.shares = call->few->shares;
    return few;
}

/* The rows of `from` that go on: in `to`, which may be from, or all of from where it stands. */
static const float *pick_rows(const tt_block_call *call, const float *from, float *to) {
    const tt_block_few *few = call->few;
    size_t width = (size_t)call->spec->hidden;
    if (!few) return from;
    for (int i = 0; i < few->n; i++) {
        const float *row = from + (size_t)few->rows[i] * width;
        if (row != to + (size_t)i * width) memcpy(to + (size_t)i * width, row, width * sizeof *to);
    }
    return to;
}

/* The other way, in place: the rows that went on move to where they belong, the others are zero. */
static void spread_rows(const tt_block_call *call, float *d) {
    const tt_block_few *few = call->few;
    size_t width = (size_t)call->spec->hidden, end = (size_t)call->n_tokens;
    if (!few) return;
    for (int i = few->n - 1; i >= 0; i--) {
        size_t row = (size_t)few->rows[i];
        memset(d + (row + 1) * width, 0, (end - row - 1) * width * sizeof *d);
        if (row != (size_t)i) memcpy(d + row * width, d + (size_t)i * width, width * sizeof *d);
        end = row;
    }
    memset(d, 0, end * width * sizeof *d);
}

/* The weight of the norm in front of the product. */
static void norm_backward(const tt_block_call *call, const tt_block_adapt *adapt, tt_point point,
                          const float *x, const float *rstd, const float *d_y) {
    for (int i = 0; i < adapt->n_shares; i++) {
        acting a;
        if (!find_acting(adapt, point, i, &a)) continue;
        size_t at = a.first * (size_t)call->spec->hidden;
        tt_adapter_norm_backward(a.share->trained, &a.call, point, x + at, rstd + a.first,
                                 d_y + at);
    }
}

static tt_norm norm_of(const tt_block_call *call, const float *w) {
    return (tt_norm){w, call->spec->norm_offset, call->spec->norm_eps};
}

static size_t n_values(const tt_block_call *call) {
    return (size_t)call->n_tokens * (size_t)call->spec->hidden;
}

/* norm(x) in `to`, or x itself where there is no such norm. */
static const float *norm_forward(const tt_block_call *call, const float *w, const float *x,
                                 float *to, float *rstd) {
    if (!w) return x;
    const tt_norm norm = norm_of(call, w);
    tt_ops_rmsnorm_forward(call->n_tokens, call->spec->hidden, &norm, x, to, rstd);
    return to;
}

/* d += gradient of x, from d_y, that of norm(x). */
static void add_norm_backward(const tt_block_call *call, const float *w, const float *x,
                              const float *rstd, const float *d_y, float *d) {
    const tt_norm norm = norm_of(call, w);
    if (w)
        tt_ops_rmsnorm_backward(call->n_tokens, call->spec->hidden, &norm, x, rstd, d_y, d);
    else
        tt_ops_add(n_values(call), d_y, d);
}

/* What is added to the residual stream: the tensor at a site, behind a product, and then perhaps
 * behind a norm and a factor. */
typedef struct branch {
    tt_point site, point;
    const tt_matrix *w; /* NULL: the tensor does not come from one product */
    const float *bias;
    const float *post_norm; /* NULL: none */
    const tt_norm_acts *post;
} branch;

/* Does anything act between the product and the residual stream? */
static bool is_shaped(const tt_block_call *call, const tt_block_adapt *adapt, const branch *b) {
    return !b->w || b->post_norm || call->spec->residual_scale != 1 || changes(adapt, b->site) ||
           changes(adapt, b->point);
}

/* Where the branch's tensor belongs before the site acts, and after. */
static float *behind_site(const tt_block_call *call, const branch *b) {
    return b->post_norm && b->post->input ? b->post->input : call->normed;
}

static float *before_site(const tt_block_call *call, const tt_block_adapt *adapt, const branch *b) {
    return at_site(adapt, b->site, behind_site(call, b));
}

/* to += residual_scale * norm'(site(before_site)). */
static void end_branch(const tt_block_call *call, const tt_block_adapt *adapt, const branch *b,
                       float *to) {
    float *behind = behind_site(call, b);
    site_forward(call, adapt, b->site, before_site(call, adapt, b), behind);
    const float *value =
        norm_forward(call, b->post_norm, behind, call->normed, b->post ? b->post->rstd : NULL);
    float scale = (float)call->spec->residual_scale;
    if (scale == 1)
        tt_ops_add(n_values(call), value, to);
    else
        tt_ops_add_scaled(n_values(call), scale, value, to);
}

/* to = from + the branch behind the product of x. */
static void add_branch(const tt_block_call *call, const tt_block_adapt *adapt, const branch *b,
                       const float *x, const float *from, float *to) {
    copy_rows(call, from, to);
    if (!is_shaped(call, adapt, b)) {
        tt_gemm_forward(call->gemm, call->n_tokens, x, b->w, b->bias, true, to);
        return;
    }
    tt_block_product(call, adapt, b->point, b->w, b->bias, x, before_site(call, adapt, b));
    end_branch(call, adapt, b, to);
}

/* Gradient of the branch's product from d, that of the residual stream: d itself, or where
 * something acts on the branch a copy that may be changed. NULL: backward ends here. */
static float *branch_gradient(const tt_block_call *call, const tt_block_adapt *adapt,
                              const branch *b, float *d) {
    if (!is_shaped(call, adapt, b)) return d;
    float *d_branch = call->normed, scale = (float)call->spec->residual_scale;
    copy_rows(call, d, d_branch);
    if (scale != 1) tt_ops_scale(n_values(call), scale, d_branch);
    if (b->post_norm) {
        const tt_norm norm = norm_of(call, b->post_norm);
        tt_ops_rmsnorm_backward_in_place(call->n_tokens, call->spec->hidden, &norm, b->post->input,
                                         b->post->rstd, d_branch);
    }
    bool ends =
        site_backward(call, adapt, b->site, tt_block_kept_at(adapt, b->site).input, d_branch);
    return ends ? NULL : d_branch;
}

static branch attention_branch(const tt_layer_weights *w, const tt_block_acts *acts_of) {
    return (branch){TT_POINT_PRE_MLP, TT_POINT_O,        &w->o,
                    w->o_bias,        w->attn_post_norm, &acts_of->attn_post};
}

static branch mlp_branch(const tt_layer_weights *w, const tt_block_acts *acts_of) {
    return (branch){TT_POINT_POST_MLP, TT_POINT_DOWN,    w->experts ? NULL : &w->down,
                    w->down_bias,      w->mlp_post_norm, &acts_of->mlp_post};
}

tt_block_reads tt_block_reads_to(tt_point ends) {
    return (tt_block_reads){.mlp_post = ends >= TT_POINT_POST_MLP,
                            .attn_post = ends >= TT_POINT_PRE_MLP,
                            .mlp = ends >= TT_POINT_DOWN,
                            .norm = ends >= TT_POINT_UP,
                            .att = ends >= TT_POINT_O,
                            .all = ends >= TT_POINT_V};
}

static void rotate(const tt_block_call *call, int n_heads, bool inverse, float *x) {
    if (call->rotation.dim)
        tt_ops_rope(call->n_tokens, n_heads, call->spec->head_dim, call->rope_rows, &call->rotation,
                    inverse, x);
}

/* Rows and width of what a norm of heads takes as one: a head, or all heads of a token. */
static void head_rows(const tt_block_call *call, int n_heads, int *n_rows, int *width) {
    const tt_spec *spec = call->spec;
    bool whole = spec->head_norm == TT_HEAD_NORM_WHOLE;
    *n_rows = whole ? call->n_tokens : call->n_tokens * n_heads;
    *width = whole ? n_heads * spec->head_dim : spec->head_dim;
}

/* Where q or k is put before its norm. */
static float *before_norm(const tt_norm_acts *acts_of, float *heads) {
    return acts_of->input ? acts_of->input : heads;
}

static void head_norm_forward(const tt_block_call *call, int n_heads, const float *w,
                              const tt_norm_acts *to, float *heads) {
    int n_rows, width;
    if (!w) return;
    head_rows(call, n_heads, &n_rows, &width);
    const tt_norm norm = norm_of(call, w);
    tt_ops_rmsnorm_forward(n_rows, width, &norm, before_norm(to, heads), heads, to->rstd);
}

static void head_norm_backward(const tt_block_call *call, int n_heads, const float *w,
                               const tt_norm_acts *from, float *d) {
    int n_rows, width;
    if (!w) return;
    head_rows(call, n_heads, &n_rows, &width);
    const tt_norm norm = norm_of(call, w);
    tt_ops_rmsnorm_backward_in_place(n_rows, width, &norm, from->input, from->rstd, d);
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

/* k and v of x, and q of the rows that go on, normed and rotated. */
static void queries_forward(const tt_block_call *call, const tt_layer_weights *w,
                            const tt_block_acts *to, const tt_block_adapt *adapt, const float *x) {
    const tt_block_call few = call_of_few(call);
    const tt_block_adapt few_adapt = adapt_of_few(call, adapt);
    int n_heads = call->spec->n_heads, n_kv_heads = call->spec->n_kv_heads;
    const float *n = norm_forward(call, w->attn_norm, x, call->normed, to->rstd_attn);
    tt_block_product(call, adapt, TT_POINT_K, &w->k, w->k_bias, n, before_norm(&to->k_norm, to->k));
    tt_block_product(call, adapt, TT_POINT_V, &w->v, w->v_bias, n, to->v);
    head_norm_forward(call, n_kv_heads, w->k_norm, &to->k_norm, to->k);
    rotate(call, n_kv_heads, false, to->k);
    n = pick_rows(call, n, call->normed);
    tt_block_product(&few, &few_adapt, TT_POINT_Q, &w->q, w->q_bias, n,
                     before_norm(&to->q_norm, to->q));
    head_norm_forward(&few, n_heads, w->q_norm, &to->q_norm, to->q);
    rotate(&few, n_heads, false, to->q);
}

static void attention_forward(const tt_block_call *call, const tt_layer_weights *w,
                              const tt_block_acts *to, const tt_block_cache *cache,
                              const tt_block_adapt *adapt, const float *x, float *mid) {
    const tt_block_call few = call_of_few(call);
    const tt_block_adapt few_adapt = adapt_of_few(call, adapt);
    const float *k = to->k, *v = to->v;
    queries_forward(call, w, to, adapt, x);
    if (cache->k) {
        append(call, to->k, cache->k);
        append(call, to->v, cache->v);
        k = cache->k, v = cache->v;
    }
    tt_ops_attention_forward(call->gemm, &few.attention, to->q, k, v, to->att, to->lse,
                             call->attention_scratch);
    const float *heads = to->att;
    if (tt_block_acts_at(adapt, TT_POINT_HEADS)) {
        site_forward(&few, &few_adapt, TT_POINT_HEADS, to->att, call->heads);
        heads = call->heads;
    }
    const branch b = attention_branch(w, to);
    add_branch(&few, &few_adapt, &b, heads, pick_rows(call, x, mid), mid);
}

/* What gate and up read, in call->normed where it is not mid itself. */
static const float *mlp_input_forward(const tt_block_call *call, const tt_layer_weights *w,
                                      const tt_block_acts *to, const tt_block_adapt *adapt,
                                      const float *mid) {
    if (!tt_block_acts_at(adapt, TT_POINT_MLP_INPUT))
        return norm_forward(call, w->mlp_norm, mid, call->normed, to->rstd_mlp);
    float *input = at_site(adapt, TT_POINT_MLP_INPUT, call->normed);
    const float *normed = norm_forward(call, w->mlp_norm, mid, input, to->rstd_mlp);
    copy_rows(call, normed, input);
    site_forward(call, adapt, TT_POINT_MLP_INPUT, input, call->normed);
    return call->normed;
}

static void gates_forward(const tt_block_call *call, const tt_layer_weights *w,
                          const tt_block_acts *to, const tt_block_adapt *adapt,
                          const float *input) {
    tt_block_product(call, adapt, TT_POINT_GATE, &w->gate, w->gate_bias, input, to->gate);
    tt_block_product(call, adapt, TT_POINT_UP, &w->up, w->up_bias, input, to->up);
}

static void mlp_forward(const tt_block_call *call, const tt_layer_weights *w,
                        const tt_block_acts *to, const tt_block_adapt *adapt, const float *mid,
                        float *h) {
    const float *input = mlp_input_forward(call, w, to, adapt, mid);
    const branch b = mlp_branch(w, to);
    if (w->experts) {
        copy_rows(call, mid, h);
        tt_block_experts_forward(call, w, to, adapt, input, before_site(call, adapt, &b));
        end_branch(call, adapt, &b, h);
        return;
    }
    gates_forward(call, w, to, adapt, input);
    tt_ops_gated_forward(call->spec->gate,
                         (size_t)call->n_tokens * (size_t)call->spec->intermediate, to->gate,
                         to->up, to->act);
    add_branch(call, adapt, &b, to->act, mid, h);
}

void tt_block_forward(const tt_block_call *call, const tt_layer_weights *w, const tt_block_acts *to,
                      const tt_block_cache *cache, const tt_block_adapt *adapt, const float *x,
                      float *mid, float *h) {
    const tt_block_call few = call_of_few(call);
    const tt_block_adapt few_adapt = adapt_of_few(call, adapt);
    float *before = at_site(adapt, TT_POINT_POST_BLOCK, h);
    attention_forward(call, w, to, cache, adapt, x, mid);
    mlp_forward(&few, w, to, &few_adapt, mid, before);
    site_forward(&few, &few_adapt, TT_POINT_POST_BLOCK, before, h);
}

void tt_block_mlp_again(const tt_block_call *call, const tt_layer_weights *w,
                        const tt_block_acts *to, const tt_block_adapt *adapt, const float *mid) {
    const tt_block_call few = call_of_few(call);
    const tt_block_adapt few_adapt = adapt_of_few(call, adapt);
    const float *input = mlp_input_forward(&few, w, to, &few_adapt, mid);
    if (w->experts)
        tt_block_experts_again(&few, w, to, &few_adapt, input);
    else
        gates_forward(&few, w, to, &few_adapt, input);
}

void tt_block_again(const tt_block_call *call, const tt_layer_weights *w, const tt_block_acts *to,
                    const tt_block_adapt *adapt, const float *x, float *mid) {
    const tt_block_cache none = {0};
    attention_forward(call, w, to, &none, adapt, x, mid);
    tt_block_mlp_again(call, w, to, adapt, mid);
}

/* What gate and up read, computed again. */
static const float *mlp_input(const tt_block_call *call, const tt_layer_weights *w,
                              const tt_block_adapt *adapt, const float *mid) {
    if (!tt_block_acts_at(adapt, TT_POINT_GATE) && !tt_block_acts_at(adapt, TT_POINT_UP))
        return NULL;
    const float *input = norm_forward(call, w->mlp_norm, mid, call->input, NULL);
    if (!tt_block_acts_at(adapt, TT_POINT_MLP_INPUT)) return input;
    map_site(call, adapt, TT_POINT_MLP_INPUT, input, call->input, false);
    return call->input;
}

/* What down reads, computed again. */
static const float *down_input(const tt_block_call *call, const tt_block_acts *from,
                               const tt_block_acts *work, const tt_block_adapt *adapt) {
    if (!tt_block_acts_at(adapt, TT_POINT_DOWN)) return NULL;
    tt_ops_gated_forward(call->spec->gate,
                         (size_t)call->n_tokens * (size_t)call->spec->intermediate, from->gate,
                         from->up, work->gate);
    return work->gate;
}

/* d_out: gradient of what the MLP returns. d_input (may be d_out): that of its input; NULL: not
 * wanted. */
static void dense_backward(const tt_block_call *call, const tt_layer_weights *w,
                           const tt_block_acts *from, const tt_block_acts *work,
                           const tt_block_adapt *adapt, const float *input, float *d_out,
                           float *d_input) {
    float *d_gate = from->gate, *d_up = work->up;
    bool goes_on = adapt->ends > TT_POINT_DOWN;
    tt_block_product_backward(call, adapt, TT_POINT_DOWN, &w->down,
                              down_input(call, from, work, adapt), d_out, false,
                              goes_on ? d_up : NULL);
    if (!goes_on) return;
    tt_ops_gated_backward(call->spec->gate,
                          (size_t)call->n_tokens * (size_t)call->spec->intermediate, from->gate,
                          from->up, d_up, d_gate, d_up);
    tt_block_product_backward(call, adapt, TT_POINT_GATE, &w->gate, input, d_gate, false, d_input);
    tt_block_product_backward(call, adapt, TT_POINT_UP, &w->up, input, d_up, true, d_input);
}

/* d = d_h in, d_mid out: the residual path keeps d, the MLP path is added to it. True: backward
 * ended on the way. */
static bool mlp_backward(const tt_block_call *call, const tt_layer_weights *w,
                         const tt_block_acts *from, const tt_block_acts *work,
                         const tt_block_adapt *adapt, const float *mid, float *d) {
    tt_point ends = adapt->ends;
    const branch b = mlp_branch(w, from);
    float *d_out = branch_gradient(call, adapt, &b, d);
    if (!d_out) return true;
    const float *input = ends > TT_POINT_DOWN ? mlp_input(call, w, adapt, mid) : NULL;
    float *d_input = ends > TT_POINT_GATE ? call->normed : NULL;
    if (w->experts)
        tt_block_experts_backward(call, w, from, adapt, input, d_out, d_input);
    else
        dense_backward(call, w, from, work, adapt, input, d_out, d_input);
    if (!d_input) return true;
    if (site_backward(call, adapt, TT_POINT_MLP_INPUT,
                      tt_block_kept_at(adapt, TT_POINT_MLP_INPUT).input, d_input))
        return true;
    norm_backward(call, adapt, TT_POINT_GATE, mid, from->rstd_mlp, d_input);
    add_norm_backward(call, w->mlp_norm, mid, from->rstd_mlp, d_input, d);
    return false;
}

/* What o reads, computed again where heads are steered. */
static const float *o_input(const tt_block_call *call, const tt_block_acts *from,
                            const tt_block_adapt *adapt) {
    if (!tt_block_acts_at(adapt, TT_POINT_O) || !tt_block_acts_at(adapt, TT_POINT_HEADS))
        return from->att;
    map_site(call, adapt, TT_POINT_HEADS, from->att, call->heads, false);
    return call->heads;
}

/* What q, k and v read, computed again. */
static const float *attention_input(const tt_block_call *call, const tt_layer_weights *w,
                                    const tt_block_adapt *adapt, const float *x) {
    if (!tt_block_acts_at(adapt, TT_POINT_Q) && !tt_block_acts_at(adapt, TT_POINT_K) &&
        !tt_block_acts_at(adapt, TT_POINT_V))
        return NULL;
    return norm_forward(call, w->attn_norm, x, call->input, NULL);
}

/* d_normed (NULL: not wanted) from the gradients of q, k, v, which lie in work. */
static void queries_backward(const tt_block_call *call, const tt_layer_weights *w,
                             const tt_block_acts *from, const tt_block_acts *work,
                             const tt_block_adapt *adapt, const float *x, float *d_normed) {
    const tt_block_call few = call_of_few(call);
    const tt_block_adapt few_adapt = adapt_of_few(call, adapt);
    int n_heads = call->spec->n_heads, n_kv_heads = call->spec->n_kv_heads;
    rotate(&few, n_heads, true, work->q);
    rotate(call, n_kv_heads, true, work->k);
    head_norm_backward(&few, n_heads, w->q_norm, &from->q_norm, work->q);
    head_norm_backward(call, n_kv_heads, w->k_norm, &from->k_norm, work->k);
    const float *input = attention_input(call, w, adapt, x);
    if (input) input = pick_rows(call, input, call->input);
    tt_block_product_backward(&few, &few_adapt, TT_POINT_Q, &w->q, input, work->q, false, d_normed);
    if (d_normed) spread_rows(call, d_normed);
    if (call->few) input = attention_input(call, w, adapt, x);
    tt_block_product_backward(call, adapt, TT_POINT_K, &w->k, input, work->k, true, d_normed);
    tt_block_product_backward(call, adapt, TT_POINT_V, &w->v, input, work->v, true, d_normed);
}

/* d = d_mid in, d_x out. */
static void attention_backward(const tt_block_call *call, const tt_layer_weights *w,
                               const tt_block_acts *from, const tt_block_acts *work,
                               const tt_block_adapt *adapt, const float *x, float *d) {
    const tt_block_call few = call_of_few(call);
    const tt_block_adapt few_adapt = adapt_of_few(call, adapt);
    tt_point ends = adapt->ends;
    const branch b = attention_branch(w, from);
    float *d_out = branch_gradient(&few, &few_adapt, &b, d);
    if (!d_out) return;
    tt_block_product_backward(&few, &few_adapt, TT_POINT_O, &w->o, o_input(&few, from, &few_adapt),
                              d_out, false, ends > TT_POINT_O ? work->att : NULL);
    if (ends == TT_POINT_O) return;
    if (site_backward(&few, &few_adapt, TT_POINT_HEADS, from->att, work->att)) return;
    tt_ops_attention_backward(call->gemm, &few.attention, from->q, from->k, from->v, from->att,
                              from->lse, work->att, work->q, work->k, work->v,
                              call->attention_scratch);
    float *d_normed = ends == TT_N_POINTS ? call->normed : NULL;
    queries_backward(call, w, from, work, adapt, x, d_normed);
    if (!d_normed) return;
    spread_rows(call, d);
    norm_backward(call, adapt, TT_POINT_Q, x, from->rstd_attn, d_normed);
    add_norm_backward(call, w->attn_norm, x, from->rstd_attn, d_normed, d);
}

void tt_block_backward(const tt_block_call *call, const tt_layer_weights *w,
                       const tt_block_acts *from, const tt_block_acts *work,
                       const tt_block_adapt *adapt, const float *x, const float *mid, float *d) {
    const tt_block_call few = call_of_few(call);
    const tt_block_adapt few_adapt = adapt_of_few(call, adapt);
    if (site_backward(&few, &few_adapt, TT_POINT_POST_BLOCK,
                      tt_block_kept_at(adapt, TT_POINT_POST_BLOCK).input, d))
        return;
    if (mlp_backward(&few, w, from, work, &few_adapt, mid, d)) return;
    attention_backward(call, w, from, work, adapt, x, d);
}
