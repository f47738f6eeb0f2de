/* block: one decoder layer of the frozen base, forward and backward (input gradients only).
 *
 *     n   = rmsnorm(x) * attn_norm            q = rope(n Wq^T + bq)   k = rope(n Wk^T + bk)
 *     mid = x + attention(q, k, v) Wo^T + bo  v = n Wv^T + bv
 *     n'  = rmsnorm(mid) * mlp_norm
 *     h   = mid + (silu(n' Wg^T + bg) * (n' Wu^T + bu)) Wd^T + bd
 *
 * Sites, where a tensor may be replaced by the adapter's map of it (tt_block_steer):
 *     pre_mlp     attention(q, k, v) Wo^T + bo, before x is added     mlp_input   n'
 *     post_mlp    (...) Wd^T + bd, before mid is added                post_block  h
 *
 * Residual additions ride in the products (accumulate), except at a steered pre_mlp or post_mlp,
 * where the map comes in between. What backward needs is written where tt_block_acts points; the
 * normed inputs are not kept, since a frozen matrix has no weight gradient and the norm's own
 * backward reads only its input and rstd.
 *
 * No allocation: all arrays are the caller's. Source: transformers LlamaDecoderLayer. */
#ifndef TRIMTAB_BLOCK_H
#define TRIMTAB_BLOCK_H

#include "trimtab/adapter.h"
#include "trimtab/gemm.h"
#include "trimtab/ops.h"
#include "trimtab/spec.h"
#include "trimtab/weights.h"

/* Activations of one layer. In training each layer has its own; when nothing is kept all layers
 * share one set with rstd_* and lse NULL and act == gate. qw = n_heads * head_dim,
 * kw = n_kv_heads * head_dim. */
typedef struct tt_block_acts {
    float *rstd_attn, *rstd_mlp; /* [tokens] */
    float *q, *k, *v;            /* [tokens x qw], [tokens x kw] twice; after the rotation */
    float *att;                  /* [tokens x qw] attention output */
    float *lse;                  /* [tokens x n_heads] */
    float *gate, *up;            /* [tokens x intermediate] */
    float *act;                  /* [tokens x intermediate] silu(gate) * up; not kept */
} tt_block_acts;

/* What the layers of one call have in common. */
typedef struct tt_block_call {
    const tt_spec *spec;
    tt_gemm *gemm;
    int n_tokens;
    const int32_t *positions;         /* [n_tokens] */
    const float *rope_cos, *rope_sin; /* tables over positions */
    tt_attention attention;           /* sequences; kv rows are the call's own, or cache rows */
    float *normed;                    /* [tokens x hidden] workspace */
    void *attention_scratch;
} tt_block_call;

/* Keys and values of earlier tokens of this layer, rows as attention.seqs say; the call's own are
 * added. Both NULL: no cache. */
typedef struct tt_block_cache {
    float *k, *v; /* [cache rows x kw] */
} tt_block_cache;

/* The adapter of one layer at its method's site. adapter NULL: the layer is not steered. */
typedef struct tt_block_steer {
    const tt_adapter *adapter;
    tt_adapter *trained; /* backward: the adapter again, whose gradients are added to */
    int layer;
    const int32_t *rows; /* as tt_adapter_rows gives them */
    int n_rows;
    float *h, *z;   /* kept for backward: the tensor at the site, tt_adapter_forward's saved; NULL:
                       not wanted */
    float *scratch; /* tt_adapter_scratch_floats */
    bool ends;      /* nothing below the site is trained: backward ends there */
} tt_block_steer;

/* Does backward, ending at the site, still pass through the MLP, and through its norm? */
bool tt_block_site_is_below_mlp(tt_site site);
bool tt_block_site_is_below_norm(tt_site site);

/* x -> h. mid and h [tokens x hidden] may be x itself (and each other) when the earlier values are
 * not needed again. Errors: none. */
void tt_block_forward(const tt_block_call *call, const tt_layer_weights *w,
                      const tt_block_acts *acts, const tt_block_cache *cache,
                      const tt_block_steer *steer, const float *x, float *mid, float *h);

/* d: gradient of h, overwritten with the gradient of x, or with no useful values when steer->ends.
 * x, mid and acts as forward left them (when steer->ends only what the way to the site reads: gate
 * and up below the MLP, mid and rstd_mlp below its norm); acts->gate is destroyed. work: arrays of
 * the same sizes, overwritten (q, k, v, att, up). */
void tt_block_backward(const tt_block_call *call, const tt_layer_weights *w,
                       const tt_block_acts *acts, const tt_block_acts *work,
                       const tt_block_steer *steer, const float *x, const float *mid, float *d);

#endif
