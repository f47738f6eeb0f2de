/* plan_time: how long a training step of a plan takes, on paper. Pure: numbers in, numbers out.
 *
 *     tt_plan_machine machine = {.flops_per_core = 30e9, .cores = 8, .bandwidth = 1e9,
 *                                .latency = 5e-5};
 *     tt_plan_time_predict(&input, plan, &machine, &time);
 *
 * A replica's step is M micro-batches of n tokens each, T of them supervised, through the stages s:
 *
 *     t_s   = (forward_s + backward_s) / (cores * flops_per_core)
 *     c     = latency + n * hidden * 4 / bandwidth                       one message
 *     slot  = max(max_s t_s, 2 c)                                        messages overlap with work
 *     step  = sum_s t_s + hops * c + (M - 1) * slot + reduce             hops: once down, once back
 *
 * which is 1F1B's time: the first micro-batch passes all stages, then the slowest one sets the pace
 * (exact for equal stages; up to a tenth too long where they differ by a factor of two). FLOPs of n
 * tokens in a layer:
 *
 *     forward    2 n P + 4 n a v         P: elements of its matrices (of the experts that a token
 *     backward   2 n P + 10 n a v           meets); a = heads * head_dim; v: tokens that the
 * average token sees, (L + 1) / 2 of a sequence of L, fewer where the layer has a window weights 2
 * n P                   more, where all weights are trained adapter    6 n p                   p:
 * parameters of the layer's adapter
 *
 * Backward gives gradients of inputs only; it computes the scores of attention again (5 products
 * where forward has 2) and no other product. The head costs 4 T hidden vocab (8, trained) on the
 * last stage. Layers below the first adapted one run forward only.
 *
 * reduce: adapter gradients of the stage that has most, summed over R replicas in a ring,
 * 2 (R - 1) / R * bytes / bandwidth + 2 log2(R) latency a layer, as if nothing overlapped, and one
 * small sum over all ranks, 2 log2(ranks) latency.
 *
 * Left out: the optimiser, reading weights for the first time, and what an uneven deal of sequences
 * costs. Norms, softmax and activations count no FLOPs: a rate that was measured on a whole layer
 * (tt_bench_layer) has them in it. */
#ifndef TRIMTAB_PLAN_TIME_H
#define TRIMTAB_PLAN_TIME_H

#include "trimtab/plan.h"

/* The same for every rank. */
typedef struct tt_plan_machine {
    double flops_per_core;     /* a second */
    int cores;                 /* of a rank */
    double bandwidth, latency; /* between two ranks: bytes a second, seconds */
} tt_plan_machine;

typedef struct tt_plan_time {
    int n_micro;                          /* M */
    double tokens_micro, targets_micro;   /* n, T */
    double tokens_step;                   /* of all replicas */
    double forward_flops, backward_flops; /* of a step, all replicas */
    double message_bytes, message_s;      /* one; 0 with one stage */
    int slowest_stage;
    double slot_s, reduce_s;
    double bubble; /* share of the step in which the slowest stage waits: for filling and emptying
                      the pipeline, and for messages */
    double step_s;
} tt_plan_time;

/* FLOPs of one token in a layer; full: all weights are trained. length: of its sequence. */
void tt_plan_time_layer(const tt_spec *spec, int layer, bool full, double length, double *forward,
                        double *backward);

/* plan was built from input, with input->train and facts of training data; all numbers of machine
 * are above 0 (latency may be 0). */
void tt_plan_time_predict(const tt_plan_input *input, const tt_plan *plan,
                          const tt_plan_machine *machine, tt_plan_time *out);

/* The assumptions and the result, in some lines of text. rate_source: where flops_per_core comes
 * from, in words. */
void tt_plan_time_print(const tt_plan_time *time, const tt_plan *plan,
                        const tt_plan_machine *machine, const char *rate_source, FILE *stream);

/* Least number of ranks, in n_replicas replicas of any number of stages, for which no rank needs
 * more than rank_bytes; 0: there is none. Errors: those of tt_plan_build. */
tt_status tt_plan_fewest_ranks(const tt_plan_input *input, int n_replicas, size_t rank_bytes,
                               int *n_ranks, tt_error *err) TT_MUST_CHECK;

/* The stage whose ranks need most. */
int tt_plan_largest_stage(const tt_plan *plan);

#endif
