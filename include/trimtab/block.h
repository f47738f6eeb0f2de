/* block: one decoder layer of the base, forward and backward (input gradients; what is trained adds
 * its own at the points of adapter.h). The formula of all families stands in spec.h; what a layer
 * has of it follows from its weights (a norm that is absent is skipped) and from the spec.
 *
 * Points, where an adapter acts (tt_block_adapt). Sites replace a tensor by the adapter's map of
 * it: heads       attention(q, k, v) pre_mlp     attention(q, k, v) Wo^T + bo, before its norm and
 * before x is added mlp_input   what gate, up and router read post_mlp    what the MLP returns,
 * before its norm and before mid is added post_block  h Products q, k, v, o, gate, up, down are
 * adapted as products, before their bias is added.
 *
 * Residual additions ride in the products (accumulate), except where something acts on the branch.
 * What backward needs is written where tt_block_acts points; the normed inputs are not kept: the
 * norm's own backward reads only its input and rstd, and an adapted product's input is computed
 * again.
 *
 * No allocation: all arrays are the caller's. Sources: transformers' decoder layers. */
#ifndef TRIMTAB_BLOCK_H
#define TRIMTAB_BLOCK_H

#include "trimtab/adapter.h"
#include "trimtab/gemm.h"
#include "trimtab/mixture.h"
#include "trimtab/ops.h"
#include "trimtab/spec.h"
#include "trimtab/weights.h"

/* What a norm keeps of a tensor it replaces. */
typedef struct tt_norm_acts {
    float *input; /* [rows x width] */
    float *rstd;  /* [rows] */
} tt_norm_acts;

/* Activations of one layer. In training each layer has its own; when nothing is kept all layers
 * share one set with rstd_*, lse and all of tt_norm_acts NULL and act == gate.
 * qw = n_heads * head_dim, kw = n_kv_heads * head_dim. */
typedef struct tt_block_acts {
    float *rstd_attn, *rstd_mlp;      /* [tokens] */
    tt_norm_acts q_norm, k_norm;      /* [tokens x qw], [tokens x kw], with the norms of heads */
    tt_norm_acts attn_post, mlp_post; /* [tokens x hidden], with the norms behind a branch */
    float *q, *k, *v;                 /* [tokens x qw], [tokens x kw] twice; after the rotation */
    float *att;                       /* [tokens x qw] attention output */
    float *lse;                       /* [tokens x n_heads] */
    float *gate, *up;                 /* [tokens x intermediate], or with experts
                                         [routed rows x expert_intermediate] */
    float *act;                       /* [tokens x intermediate] act(gate) * up; not kept */
    tt_mixture_acts mixture;          /* with experts */
} tt_block_acts;

/* Rows of the call that go on after keys and values: of every sequence the last ones, as many as
 * anything reads of the layer's output. All tensors but x, k, v and what belongs to them
 * (rstd_attn, k_norm) have these rows alone, one behind the other: q, att, lse, mid, ..., h, and d
 * until backward arrives at x. */
typedef struct tt_block_few {
    int n;
    const int32_t *rows;                 /* [n] ascending */
    const int32_t *rope_rows;            /* [n] */
    const tt_attention_seq *seqs;        /* [attention.n_seqs] with these queries */
    const struct tt_block_share *shares; /* [n_shares] with these rows */
} tt_block_few;

/* What a layer has of a call; most of it is the same for all layers. */
typedef struct tt_block_call {
    const tt_spec *spec;
    tt_gemm *gemm;
    int n_tokens;
    const int32_t *rope_rows; /* [n_tokens] rows of the rotation's tables */
    tt_rotation rotation;     /* of this layer; dim 0: none */
    tt_attention attention;   /* sequences; kv rows are the call's own, or cache rows; window
                                 of this layer */
    float *normed;            /* [tokens x hidden] workspace */
    float *input;             /* [tokens x hidden] workspace; NULL unless q, k, v, gate or
                                 up are adapted */
    float *heads;             /* [tokens x qw] workspace; NULL unless heads are */
    void *attention_scratch;
    tt_mixture_work mixture;
    const tt_block_few *few; /* NULL: all rows go on */
} tt_block_call;

/* Keys and values of earlier tokens of this layer, rows as attention.seqs say; the call's own are
 * added. Both NULL: no cache. */
typedef struct tt_block_cache {
    float *k, *v; /* [cache rows x kw] */
} tt_block_cache;

/* What the units at one point keep for backward; both NULL: not wanted. */
typedef struct tt_block_kept {
    float *input;       /* the tensor at a site, where backward reads it and acts do not hold it */
    float *saved;       /* tt_adapter_saved_floats of each share */
    size_t saved_a_row; /* a share's begin at its first token times this; 0: there is one share */
} tt_block_kept;

/* Rows of the call that one adapter acts on. */
typedef struct tt_block_share {
    const tt_adapter *adapter; /* NULL: nothing acts on them */
    tt_adapter *trained;       /* backward: the adapter again, whose gradients are added to */
    int first_token;
    tt_adapter_call call; /* of these rows alone: n_tokens is the share's, rows count from its
                             first token; layer is read from tt_block_adapt */
} tt_block_share;

/* The adapters in one layer. Shares cover the call's rows in order. With experts, and with
 * full-parameter tuning, there is one. */
typedef struct tt_block_adapt {
    int layer, n_shares;
    const tt_block_share *shares;
    const tt_block_kept *kept; /* [TT_N_POINTS]; NULL: nothing is kept */
    tt_point ends; /* backward ends with this point, below which nothing is trained; TT_N_POINTS:
                      goes on to x */
} tt_block_adapt;

/* x -> h. mid and h [tokens x hidden] may be x itself (and each other) when the earlier values are
 * not needed again. Errors: none. */
void tt_block_forward(const tt_block_call *call, const tt_layer_weights *w, const tt_block_acts *to,
                      const tt_block_cache *cache, const tt_block_adapt *adapt, const float *x,
                      float *mid, float *h);

/* Forward once more, before backward and in the same arrays, where these were not kept: as far as
 * gate and up, which is all that backward reads but what lies behind down's product and, with
 * experts, the routing: that is as forward left it. mid [tokens x hidden] is written, and is not x.
 */
void tt_block_again(const tt_block_call *call, const tt_layer_weights *w, const tt_block_acts *to,
                    const tt_block_adapt *adapt, const float *x, float *mid);

/* The same of gate and up alone; mid is as forward left it. */
void tt_block_mlp_again(const tt_block_call *call, const tt_layer_weights *w,
                        const tt_block_acts *to, const tt_block_adapt *adapt, const float *mid);

/* d: gradient of h, overwritten with the gradient of x, or with no useful values when adapt->ends
 * lies above. x, mid and from as forward left them (where backward ends early only what
 * tt_block_reads names); from->gate is destroyed. work: arrays of the same sizes, overwritten. */
void tt_block_backward(const tt_block_call *call, const tt_layer_weights *w,
                       const tt_block_acts *from, const tt_block_acts *work,
                       const tt_block_adapt *adapt, const float *x, const float *mid, float *d);

/* What backward reads that forward must keep, when it ends with that point. */
typedef struct tt_block_reads {
    bool mlp_post, attn_post;
    bool mlp;  /* gate, up, mixture */
    bool norm; /* mid, rstd_mlp */
    bool att;
    bool all; /* besides: x, rstd_attn, q, k, v, their norms, lse */
} tt_block_reads;
tt_block_reads tt_block_reads_to(tt_point ends);

#endif
