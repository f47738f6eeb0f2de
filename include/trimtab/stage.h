/* stage: one rank's contiguous layers (+ embedding on the first, final norm, head and loss on the
 * last): one micro-batch forward, one backward, and KV-cached generation. Knows no MPI.
 *
 * Training keeps each micro-batch and its activations in a slot from forward to backward; the
 * number of slots is what the schedule has in flight at most. A micro-batch may be made of shares,
 * in which different adapters act on rows of their own: the frozen products run over all rows at
 * once, and what an adapter gets and gives does not depend on who shares the call. Layers below the
 * first adapted layer keep nothing, and backward stops at the last point at which the first adapted
 * layer is trained. All memory is one arena whose size tt_stage_bytes predicts exactly; nothing is
 * allocated after create.
 *
 *     tt_stage_share share = {.mb = &mb, .adapter = adapter, .trained = adapter};
 *     tt_stage_forward(stage, slot, &share, 1, x_in, x_out, losses, correct);
 *     ...
 *     tt_stage_backward(stage, slot, d_out, d_in, on_layer, context);
 *
 * The network is spec.h's; the adapter acts at points of it (adapter.h). */
#ifndef TRIMTAB_STAGE_H
#define TRIMTAB_STAGE_H

#include "trimtab/adapter.h"
#include "trimtab/batch.h"
#include "trimtab/gemm.h"
#include "trimtab/spec.h"
#include "trimtab/status.h"
#include "trimtab/weights.h"

/* What decides a stage's memory; pure numbers, so a planner can ask before anything is loaded. */
typedef struct tt_stage_shape {
    const tt_spec *spec;      /* borrowed; must outlive the stage */
    const tt_method *methods; /* [n_methods] borrowed, resolved: all that may share the stage */
    int n_methods;
    int max_shares; /* of one micro-batch; 0 counts as 1 */
    int first_layer, n_layers;
    bool is_first, is_last;
    int first_adapted; /* lowest layer of the whole model that a method adapts; spec->n_layers: none
                        */
    int max_tokens, max_seqs, max_targets; /* of one micro-batch */
    int max_seq_length;                    /* tokens of the longest sequence */
    int n_slots;                  /* training micro-batches in flight; 0: forward only (one call) */
    int cache_seqs, cache_length; /* KV cache: sequences x positions; 0: no generation */
    int n_threads;
    tt_memory_policy activations; /* not AUTO */
    tt_saved saved;
    /* To ask tt_stage_bytes how much of what is kept will be touched: rows of a micro-batch, and
     * those that go on in the top layer. 0, as for tt_stage_create: max_tokens. */
    int kept_tokens, kept_top_rows;
} tt_stage_shape;

/* What a layer's backward begins by computing again, from what is kept of the layer: gate and up of
 * the MLP (of all experts that were chosen) from mid; or all up to these from the layer's input.
 * What lies behind down's product, and the routing of experts, are always kept where backward
 * reads them, and never computed again. The lowest adapted layer, where backward ends early, never
 * needs more than TT_AGAIN_MLP. Results are the same to the bit, unless what is kept is rounded. */
typedef enum tt_again { TT_AGAIN_NOTHING, TT_AGAIN_MLP, TT_AGAIN_BLOCK } tt_again;
tt_again tt_stage_again(const tt_stage_shape *shape, int layer);

typedef struct tt_stage tt_stage;

/* Bytes by purpose; total is what tt_stage_create reserves. */
typedef struct tt_stage_memory {
    size_t activations; /* all slots */
    size_t workspace;   /* shared by all micro-batches */
    size_t cache;       /* KV */
    size_t total;
} tt_stage_memory;
void tt_stage_bytes(const tt_stage_shape *shape, tt_stage_memory *out);

/* Borrows shape->spec, shape->methods, weights and gemm; they must outlive the stage. Freed by
 * tt_stage_destroy. Errors: ERR_MEMORY; ERR_INTERNAL (weights of other layers, gemm with more
 * threads than shape). */
tt_status tt_stage_create(const tt_stage_shape *shape, const tt_weights *weights, tt_gemm *gemm,
                          tt_stage **out, tt_error *err) TT_MUST_CHECK;
void tt_stage_destroy(tt_stage *stage);

/* Micro-batches that can be kept at once. */
int tt_stage_n_slots(const tt_stage *stage);

/* Bytes of the arena in use: what tt_stage_bytes predicted. */
size_t tt_stage_high_water(const tt_stage *stage);

/* tick is called after every layer that is run, forward or backward, by the calling thread and
 * outside parallel regions: where a caller drives what goes on beside the arithmetic (messages that
 * advance only when asked to). NULL: none, as after create. */
typedef void (*tt_stage_tick)(void *context);
void tt_stage_set_tick(tt_stage *stage, tt_stage_tick tick, void *context);

/* Does this stage take part in backward (an adapted layer lies on or below it), and must it hand a
 * gradient down (an adapted layer lies below its first)? */
bool tt_stage_has_backward(const tt_stage *stage);
bool tt_stage_sends_gradient(const tt_stage *stage);

/* Sequences of a call that belong together. */
typedef struct tt_stage_share {
    const tt_micro_batch *mb;  /* copied */
    const tt_adapter *adapter; /* NULL: the frozen model */
    tt_adapter *trained;       /* the same: backward adds to its gradients. NULL: forward only */
} tt_stage_share;

/* Most shares a call may be made of. */
enum { TT_MAX_SHARES = 64 };

/* Forward of one micro-batch: the shares' rows one behind the other, together within the shape's
 * limits. slot in [0, n_slots) keeps it and its activations for backward; -1: nothing is kept. With
 * experts or full-parameter tuning n_shares is 1.
 * x_in [n_tokens x hidden] (ignored on the first stage), x_out likewise (ignored on the last).
 * Last stage: losses [n_targets] (double) receives -log p of each target, share by share, correct
 * [n_targets] (may be NULL) whether it is the arg-max; with slot >= 0 the gradient of the sum of
 * loss_scale * losses is kept for backward. */
void tt_stage_forward(tt_stage *stage, int slot, const tt_stage_share *shares, int n_shares,
                      const float *x_in, float *x_out, double *losses, uint8_t *correct);

/* Called when the parameter gradients of a layer and this micro-batch have been added. */
typedef void (*tt_stage_layer_done)(void *context, int layer);

/* Backward of the micro-batch kept in slot; adds to the gradients of what is trained, whose
 * parameters are as they were in forward. d_out [n_tokens x hidden]: gradient of x_out (ignored on
 * the last stage). d_in: gradient of x_in, written when tt_stage_sends_gradient. on_layer may be
 * NULL; layers are reported from the highest down. */
void tt_stage_backward(tt_stage *stage, int slot, const float *d_out, float *d_in,
                       tt_stage_layer_done on_layer, void *context);

/* New tokens of some cached sequences: prompts (n_new = length) or single decoded tokens. */
typedef struct tt_extend {
    int n_tokens, n_seqs;
    const int32_t *ids;        /* [n_tokens]; used by the first stage */
    const int32_t *positions;  /* [n_tokens] */
    const int32_t *seq_start;  /* [n_seqs + 1] */
    const int32_t *slot;       /* [n_seqs] cache sequence, in [0, cache_seqs) */
    const int32_t *past;       /* [n_seqs] tokens already in the cache */
    const int32_t *prompt_len; /* [n_seqs] */
    int max_new; /* tokens that may come behind a prompt: LONGROPE's factors are chosen for all of a
                    sequence by prompt_len + max_new */
} tt_extend;

/* Runs the new tokens through this stage with the KV cache. x_in, x_out as in forward. Last stage:
 * next [n_seqs] receives the arg-max id after each sequence's last new token (-1: no finite score),
 * and logits [n_seqs x vocab] (NULL: not wanted) the scores. n_tokens <= max_tokens, n_seqs <=
 * max_seqs. */
void tt_stage_extend(tt_stage *stage, const tt_extend *extend, const tt_adapter *adapter,
                     const float *x_in, float *x_out, int32_t *next, float *logits);

/* Logits [n x vocab] of targets [first, first + n) of the latest tt_stage_forward, before any
 * other call. Last stage only. */
void tt_stage_target_logits(tt_stage *stage, int first, int n, float *logits);

/* The model's top layer computes only rows that anything reads: of every sequence those from its
 * first target on, or the last one. all = true: from now on all rows, for tt_stage_logits. */
void tt_stage_want_all_rows(tt_stage *stage, bool all);

/* Logits [n_tokens x vocab] of every token of the latest tt_stage_forward, before any other call,
 * with all rows wanted. Last stage only; for tests and inspection. */
void tt_stage_logits(tt_stage *stage, int n_tokens, float *logits);

#endif
