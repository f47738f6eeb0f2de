/* network_rig: the network in one process, its layers dealt to one or more stages by hand. For
 * tests of the part floor. */
#ifndef TRIMTAB_TESTS_NETWORK_RIG_H
#define TRIMTAB_TESTS_NETWORK_RIG_H

#include "trimtab/stage.h"

enum { RIG_STAGES = 4, RIG_TOKENS = 256, RIG_SEQS = 8, RIG_SLOTS = 2, RIG_CACHE = 96 };

typedef struct rig_sequence {
    const int32_t *ids;
    int n, prompt_len; /* supervised: tokens from prompt_len on */
} rig_sequence;

/* Packed sequences with their own storage. loss_scale is 1 / n_targets. */
typedef struct rig_batch {
    tt_micro_batch mb;
    int32_t ids[RIG_TOKENS], positions[RIG_TOKENS], seq_start[RIG_SEQS + 1];
    int32_t prompt_len[RIG_SEQS], target_row[RIG_TOKENS], target_id[RIG_TOKENS];
} rig_batch;
void rig_batch_build(rig_batch *out, const rig_sequence *seqs, int n_seqs);

typedef struct rig {
    const tt_spec *spec;
    tt_method method;
    tt_gemm *gemm;
    int n_stages, first[RIG_STAGES + 1];
    tt_adapter *adapter[RIG_STAGES];
    tt_stage *stage[RIG_STAGES];
    float *x[RIG_STAGES], *d[RIG_STAGES]; /* stage i's output, and its gradient */
    double losses[RIG_TOKENS];
    uint8_t correct[RIG_TOKENS];
} rig;

/* What the stages of rigs created from now on keep, and how: at first all, as fp32. */
extern tt_memory_policy rig_activations;
extern tt_saved rig_saved;

/* weights[i]: layers [first[i], first[i + 1]), borrowed. Asserts on failure. */
void rig_create(rig *out, const tt_spec *spec, const tt_method *method, tt_weights *const *weights,
                const int *first, int n_stages, uint64_t seed);
void rig_destroy(rig *r);

/* Forward through all stages; returns sum(losses) * loss_scale. slot -1: nothing kept.
 * adapted = false: the frozen model. */
double rig_forward(rig *r, int slot, const tt_micro_batch *mb, bool adapted);
/* Backward of that slot: adds to the adapters' gradients. */
void rig_backward(rig *r, int slot);
void rig_zero_grads(rig *r);

/* Full-parameter tuning of a model with a tied head: what reduce does after backward (the head's
 * gradient joins the embedding's) and after an update (the last stage's copy follows). */
void rig_join_head(rig *r);
void rig_spread_head(rig *r);

/* Layers that share their parameters, after backward: each gets the sum of all, as reduce does.
 * Returns the sum of squares of all gradients, shared ones counted once. */
double rig_sum_gradients(rig *r);

/* The tensor of that name, or asserts. */
tt_adapter_view *rig_find(const rig *r, const char *name, tt_adapter **adapter);

/* Logits of every token [n_tokens x vocab]; freed by the caller. */
float *rig_logits(rig *r, const tt_micro_batch *mb, bool adapted);

/* Greedy continuation of n_prompts prompts by n_new tokens each, decoded together through the KV
 * cache: out [n_prompts x n_new]. */
void rig_generate(rig *r, const rig_sequence *prompts, int n_prompts, int n_new, bool adapted,
                  int32_t *out);

/* One stage. One random direction in every trained tensor: the gradient along it against central
 * differences, whose error is ~ 1e-9, of loss(context), which reads params (the adapter's in
 * double, changed and put back). fp32 backward through three layers: some 1e-6 of a tensor's
 * gradient. is_idle: has the tensor no gradient by definition? NULL: all have one. */
typedef double (*rig_loss)(void *context);
typedef bool (*rig_is_idle)(const tt_adapter *adapter, const char *name);
void rig_check_directions(const rig *r, double *params, rig_loss loss, void *context,
                          rig_is_idle is_idle);

/* Forward and backward of r give the losses and gradients of one, to the bit; r has more stages. */
void rig_check_same_bits(rig *r, int slot, const tt_micro_batch *mb, const rig *one);

#endif
