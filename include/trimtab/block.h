/* block: one decoder layer of the frozen base, forward and backward (input gradients only).
 *
 *     n   = rmsnorm(x) * attn_norm            q = rope(n Wq^T + bq)   k = rope(n Wk^T + bk)
 *     mid = x + attention(q, k, v) Wo^T + bo  v = n Wv^T + bv
 *     n'  = rmsnorm(mid) * mlp_norm
 *     h   = mid + (silu(n' Wg^T + bg) * (n' Wu^T + bu)) Wd^T + bd
 *
 * h is the post-block site: stage applies the adapter to it. Residual additions ride in the
 * products (accumulate). What backward needs is written where tt_block_acts points; the normed
 * inputs are not kept, since a frozen matrix has no weight gradient and the norm's own backward
 * reads only its input and rstd.
 *
 * No allocation: all arrays are the caller's. Source: transformers LlamaDecoderLayer. */
#ifndef TRIMTAB_BLOCK_H
#define TRIMTAB_BLOCK_H

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

/* x -> h. mid and h [tokens x hidden] may be x itself (and each other) when the earlier values are
 * not needed again. Errors: none. */
void tt_block_forward(const tt_block_call *call, const tt_layer_weights *w,
                      const tt_block_acts *acts, const tt_block_cache *cache, const float *x,
                      float *mid, float *h);

/* d: gradient of h, overwritten with the gradient of x. x, mid and acts as forward left them;
 * acts->gate is destroyed. work: arrays of the same sizes, overwritten (q, k, v, att, up). */
void tt_block_backward(const tt_block_call *call, const tt_layer_weights *w,
                       const tt_block_acts *acts, const tt_block_acts *work, const float *x,
                       const float *mid, float *d);

#endif
