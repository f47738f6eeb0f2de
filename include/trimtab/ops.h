/* ops: the formulas of a decoder block, forward and backward side by side. Pure numerics on
 * fp32 arrays; no allocation; OpenMP inside, deterministic for a fixed thread count.
 *
 * A micro-batch is packed tokens: [n_tokens x hidden] without padding, sequences back to back.
 * Gradients of x are written d_x. "Added to" is said where a gradient accumulates. */
#ifndef TRIMTAB_OPS_H
#define TRIMTAB_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trimtab/gemm.h"
#include "trimtab/spec.h"

/* A root-mean-square norm. */
typedef struct tt_norm {
    const float *w; /* [width] */
    float offset;   /* weights are offset + w */
    double eps;
} tt_norm;

/* y = (offset + w) * x * rstd, rstd [n_rows] = 1 / sqrt(mean(x^2) + eps). x, y [n_rows x width]; y
 * may be x; rstd may be NULL. The rows are tokens, or heads of tokens.
 * Source: Zhang & Sennrich 2019; transformers LlamaRMSNorm, GemmaRMSNorm. */
void tt_ops_rmsnorm_forward(int n_rows, int width, const tt_norm *norm, const float *x, float *y,
                            float *rstd);

/* d_x += rstd * (w' d_y - x * rstd^2 * mean(w' d_y x)), w' = offset + w. x is the norm's input. */
void tt_ops_rmsnorm_backward(int n_rows, int width, const tt_norm *norm, const float *x,
                             const float *rstd, const float *d_y, float *d_x);

/* The same, where d_x is d_y: overwritten instead of added to. */
void tt_ops_rmsnorm_backward_in_place(int n_rows, int width, const tt_norm *norm, const float *x,
                                      const float *rstd, float *d);

/* A rotary embedding: the first `dim` dimensions of each head are turned in pairs
 * (i, i + dim/2) ("rotate half"), the others stay. */
typedef struct tt_rotation {
    int dim;                            /* even, <= head_dim */
    const float *cos_table, *sin_table; /* [positions x dim/2] */
} tt_rotation;

/* cos, sin [n_positions x dim/2] of position * inv_freq, times factor, computed in double. */
void tt_ops_rope_table(int n_positions, int dim, const double *inv_freq, double factor,
                       float *cos_table, float *sin_table);

/* Rotates x [n_tokens x n_heads*head_dim] in place; inverse = true applies the transposed map,
 * which is the backward pass. */
void tt_ops_rope(int n_tokens, int n_heads, int head_dim, const int32_t *positions,
                 const tt_rotation *rotation, bool inverse, float *x);

/* One sequence of an attention call: queries are rows [q_start, q_start + n_q) of q; its own keys
 * and values are rows [kv_start, kv_start + n_kv) of k and v. In front of them it sees a prefix:
 * the rows [prefix_start, prefix_start + n_prefix). Query i sees the prefix and own keys 0 .. n_kv
 * - n_q + i, of all these the last `window` where there is one. In training n_kv == n_q and
 * kv_start == q_start; with a KV cache k and v are the cache. Where there is a backward pass, a
 * prefix is all own keys of an earlier sequence of the call that has no prefix itself; gradients of
 * its keys add up in the order of the sequences. */
typedef struct tt_attention_seq {
    int q_start, n_q, n_kv;
    size_t kv_start;
    int n_prefix; /* 0: none */
    size_t prefix_start;
} tt_attention_seq;

typedef struct tt_attention {
    int n_heads, n_kv_heads, head_dim; /* query head h reads kv head h / (n_heads / n_kv_heads) */
    float scale;                       /* of q k^T */
    float cap;                         /* scores are cap * tanh(scale q k^T / cap); 0: no cap */
    int window;                        /* 0: none */
    int n_seqs;
    const tt_attention_seq *seqs;
} tt_attention;

/* Bytes of scratch the two calls below need, whatever the lengths of sequences. */
size_t tt_ops_attention_scratch_bytes(int head_dim, int n_threads);

/* out [rows x n_heads*head_dim] = softmax(scale q k^T, causal) v, in blocks of keys with a running
 * maximum and sum: memory is O(tokens), masked blocks cost nothing. A row's bits depend on its own
 * query and keys only. lse [rows x n_heads]: log-sum-exp for the backward pass
 * (may be NULL). q, out [rows x n_heads*head_dim]; k, v [kv rows x n_kv_heads*head_dim]. */
void tt_ops_attention_forward(tt_gemm *gemm, const tt_attention *att, const float *q,
                              const float *k, const float *v, float *out, float *lse,
                              void *scratch);

/* d_q, and d_k and d_v of every sequence's own keys, are overwritten. Probabilities are recomputed
 * from lse. The same bits at any number of threads; a row of d_q depends on its own query and keys
 * only, gradients of keys on the rows that see them. */
void tt_ops_attention_backward(tt_gemm *gemm, const tt_attention *att, const float *q,
                               const float *k, const float *v, const float *out, const float *lse,
                               const float *d_out, float *d_q, float *d_k, float *d_v,
                               void *scratch);

/* y = act(gate) * up, elementwise over n values; y may be gate or up. */
void tt_ops_gated_forward(tt_gate act, size_t n, const float *gate, const float *up, float *y);

/* d_gate, d_up from d_y; d_gate may be gate's own storage, d_up may be d_y's. */
void tt_ops_gated_backward(tt_gate act, size_t n, const float *gate, const float *up,
                           const float *d_y, float *d_gate, float *d_up);

/* out [n_tokens x table.cols] = rows ids[] of the table, widened. ids are valid. */
void tt_ops_embed(int n_tokens, const int32_t *ids, const tt_matrix *table, float *out);

/* y[i] += x[i], n values; and y[i] += factor * x[i], y[i] *= factor. */
void tt_ops_add(size_t n, const float *x, float *y);
void tt_ops_add_scaled(size_t n, float factor, const float *x, float *y);
void tt_ops_scale(size_t n, float factor, float *y);

/* Every row of y [n_rows x width] += v [width]. */
void tt_ops_add_rows(int n_rows, int width, const float *v, float *y);

/* The head: logits = cap(scale * x w^T), cap(s) = c tanh(s / c). */
typedef struct tt_head {
    const tt_matrix *w; /* [vocab x hidden] */
    float scale;
    float cap; /* 0: none */
} tt_head;

/* Language-model head and cross-entropy at n_rows supervised rows, in vocabulary chunks: the full
 * logits matrix never exists. One pass: running maximum and sum as in online softmax, and with
 * d_x != NULL the gradient is accumulated alongside and rescaled.
 * x [n_rows x hidden] after the final norm; target [n_rows] ids; scale [n_rows], read with d_x.
 * loss [n_rows] (double): -log softmax(logits)[target];  d_x [n_rows x hidden] = scale * d loss.
 * correct (may be NULL) [n_rows]: is the target the arg-max (ties: lowest id)?
 * scratch: tt_ops_head_scratch_bytes. */
size_t tt_ops_head_scratch_bytes(int n_rows);
void tt_ops_head_loss(tt_gemm *gemm, int n_rows, const float *x, const tt_head *head,
                      const int32_t *target, const float *scale, double *loss, uint8_t *correct,
                      float *d_x, void *scratch);

/* Gradients of trained weights, all added to. Threads share the columns and each element is summed
 * in token order: the same bits at any number of threads.
 *
 * RMS norm: d_w [hidden] += sum over t of d_y * x * rstd, x and rstd as in the forward pass.
 * Bias:     d_b [n_outputs] += sum over t of d_y.      (Both sums run in double.)
 * Matrix:   d_w [n_outputs x n_inputs] += d_y^T x, d_y [n_tokens x n_outputs], x its input.
 * Table:    d_table [vocab x hidden]: row ids[t] += d_x[t]. */
void tt_ops_rmsnorm_weight_backward(int n_tokens, int hidden, const float *x, const float *rstd,
                                    const float *d_y, float *d_w);
void tt_ops_bias_backward(int n_tokens, int n_outputs, const float *d_y, float *d_b);
void tt_ops_matrix_backward(tt_gemm *gemm, int n_tokens, const float *d_y, int n_outputs,
                            const float *x, int n_inputs, float *d_w);
void tt_ops_embed_backward(int n_tokens, int hidden, const int32_t *ids, const float *d_x,
                           float *d_table);

/* d_head [vocab x hidden] += scale * (d loss / d x w^T)^T x: a second pass over the
 * vocabulary, since the softmax of a chunk needs the sum over all chunks. Called after
 * tt_ops_head_loss with the same arguments and the scratch as that left it. */
void tt_ops_head_weight_backward(tt_gemm *gemm, int n_rows, const float *x, const tt_head *head,
                                 const int32_t *target, const float *scale, float *d_head,
                                 void *scratch);

/* best [n_rows]: id of the largest logit (ties: lowest id), -1 when none is a number above
 * -infinity; same scratch. */
void tt_ops_head_argmax(tt_gemm *gemm, int n_rows, const float *x, const tt_head *head,
                        int32_t *best, void *scratch);

/* logits [n_rows x vocab], for inspection and tests. */
void tt_ops_head_logits(tt_gemm *gemm, int n_rows, const float *x, const tt_head *head,
                        float *logits);

#endif
