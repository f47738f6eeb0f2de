/* mixture: an MLP that is a mixture of experts, of which every token takes some, forward and
 * backward (input gradients; what is trained adds its own at the experts' products).
 *
 *     p = softmax(x R^T) over all experts; the n_experts_per_token largest are chosen (ties: the
 *     lowest expert);  w_e = p_e, or p_e / sum of the chosen (sums_experts_to_one)
 *     y = sum over chosen e of w_e (act(x Wg_e^T) * (x Wu_e^T)) Wd_e^T, in the order of experts
 *
 * Backward, d = gradient of y: with s_e = <w_e d, expert e's output>, which is <gradient of what
 * down reads, that itself>, the gradient of the router's logit of e is
 *     sums to one:  s_e - w_e sum s   for the chosen, 0 for the others
 *     otherwise:    s_e - p_e sum s,  s_e = 0 for those not chosen.
 *
 * Tokens are sorted by expert, an expert's rows in token order: "routed rows". What a token gives
 * depends on no other token. No auxiliary loss: the router is frozen.
 * Sources: Shazeer et al. 2017; transformers MixtralSparseMoeBlock, Qwen3MoeSparseMoeBlock. */
#ifndef TRIMTAB_MIXTURE_H
#define TRIMTAB_MIXTURE_H

#include <stddef.h>
#include <stdint.h>

#include "trimtab/spec.h"

/* The routing of a call, kept for backward. n_routed = tokens * n_experts_per_token. */
typedef struct tt_mixture_acts {
    float *probs;       /* [tokens x n_experts] p */
    int32_t *chosen;    /* [tokens x n_experts_per_token] experts of each token, ascending */
    float *weight;      /* [n_routed] w of each routed row */
    int32_t *token;     /* [n_routed] its token */
    int32_t *row_start; /* [n_experts + 1] first routed row of each expert */
} tt_mixture_acts;

/* Workspace of a call, shared by all layers; all NULL in models without experts. */
typedef struct tt_mixture_work {
    float *x, *y;       /* [tokens x hidden] of one expert */
    float *sum;         /* [tokens x hidden] of all experts */
    float *act, *d_act; /* [tokens x expert_intermediate] */
    float *d_up;        /* likewise */
    float *score;       /* [n_routed] s */
    float *d_logits;    /* [tokens x n_experts] */
    uint64_t *row_keys; /* [tokens] */
} tt_mixture_work;

/* Chooses experts from the router's logits, which become probabilities: fills acts, whose probs
 * holds the logits. spec: n_experts, n_experts_per_token, sums_experts_to_one. */
void tt_mixture_route(const tt_spec *spec, int n_tokens, const tt_mixture_acts *acts);

/* d_logits [n_tokens x n_experts] from the scores s of the routed rows. */
void tt_mixture_route_backward(const tt_spec *spec, int n_tokens, const tt_mixture_acts *acts,
                               const float *score, float *d_logits);

#endif
