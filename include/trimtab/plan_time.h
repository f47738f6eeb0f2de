/* plan_time: how long a training step of a plan takes, on paper. Pure: numbers in, numbers out.
 *
 *     tt_plan_machine machine = {.cores = 8, .inside = {5e-5, 1e9}, .between = {5e-5, 1e9}, ...};
 *     tt_plan_machine_set_rate(&machine, 30e9);
 *     TT_TRY(tt_plan_time_predict(&input, plan, &machine, &time, NULL, err));
 *
 * The step of the replica that has most sequences is simulated event by event (simulate.h); here is
 * what its events cost. FLOPs of n tokens in a layer:
 *
 *     forward    2 n P + 4 n a v         P: elements of its matrices (of the experts that a token
 *     backward   2 n P + 10 n a v           meets); a = heads * head_dim; v: tokens that the
 *                                           average token sees, (L + 1) / 2 of a sequence of L,
 *                                           fewer where the layer has a window
 *     weights    2 n P                   more, where all weights are trained
 *     adapter    6 n p                   p: parameters of the layer's adapter
 *
 * Backward gives gradients of inputs only; it computes the scores of attention again (5 products
 * where forward has 2) and no other product, but what the plan's activations do not keep: of that,
 * tt_plan_again_flops. Layers below the first adapted one run forward only.
 * The head costs 4 T hidden vocab for T supervised tokens (8, trained) on the last stage, in its
 * forward, which finds the gradient as well.
 *
 * Small micro-batches are less efficient: a curve tells how long n tokens take. Messages between
 * stages of two nodes are n * hidden numbers (parallel.wire); in a node nothing is moved
 * (parallel.shared_memory). The gradients of layers, as many together as make 256 KiB, are summed
 * over replicas while lower layers run backward.
 *
 * Tokens that all examples begin with are computed once a micro-batch (parallel.share_prefix).
 *
 * Left out: the embedding, reading weights for the first time, and that sequences and replicas are
 * not all alike. Norms, softmax and activations count no FLOPs: curves that were measured on a
 * whole layer have them in them. */
#ifndef TRIMTAB_PLAN_TIME_H
#define TRIMTAB_PLAN_TIME_H

#include "trimtab/plan.h"
#include "trimtab/simulate.h"

/* How long work takes of which every row costs one FLOP, at some numbers of rows: in between on a
 * straight line, beyond the ends as the nearest two go on; one point means in proportion. */
enum { TT_PLAN_POINTS = 10 };
typedef struct tt_plan_curve {
    int n; /* points, rows ascending */
    double rows[TT_PLAN_POINTS], seconds[TT_PLAN_POINTS];
} tt_plan_curve;
double tt_plan_curve_s(const tt_plan_curve *curve, double rows);

/* The same for every rank. All numbers are above 0 (latencies may be 0). */
typedef struct tt_plan_machine {
    int cores;                       /* of a rank; the curves are those of all of them together */
    tt_plan_curve forward, backward; /* of layers; rows: tokens of a micro-batch */
    tt_plan_curve head;              /* rows: supervised tokens of a micro-batch */
    double update_s;                 /* of one trained number */
    int ranks_per_node;              /* neighbours; they share their node's link to other nodes */
    tt_link inside, between;         /* of two ranks: in a node, in two */
} tt_plan_machine;

/* Curves and update_s of a rank whose cores run that many FLOP/s each with large micro-batches. A
 * micro-batch costs what TT_PLAN_SPARE_TOKENS more tokens would, for reading weights and starting
 * threads (docs/plan.md says where that is from). */
enum { TT_PLAN_SPARE_TOKENS = 16 };
void tt_plan_machine_set_rate(tt_plan_machine *machine, double flops_per_core);

typedef struct tt_plan_time {
    int n_micro;                          /* of a replica */
    double rows_micro, targets_micro;     /* mean; of tokens that many begin with, one row each */
    double tokens_step;                   /* of all replicas */
    double forward_flops, backward_flops; /* of a step, all replicas */
    double message_bytes, message_s;      /* one, on the slowest hop; 0 with one stage */
    int slowest_stage;
    double slowest_s; /* its work of a step */
    double sums_s;    /* over replicas and ranks, as far as nothing hides it */
    double update_s;
    double bubble;  /* share of the step in which the slowest stage waits: for filling and emptying
                       the pipeline, for messages and sums */
    double busy;    /* share of the step in which a rank computes, mean over stages */
    double least_s; /* the work of a step, done by one rank at the curves' best rates */
    double efficiency; /* that, relative to what all ranks spend */
    double step_s;
} tt_plan_time;

/* FLOPs of one token in a layer; full: all weights are trained. length: of its sequence. */
void tt_plan_time_layer(const tt_spec *spec, int layer, bool full, double length, double *forward,
                        double *backward);

/* Tokens of the sequence in which the average token is: more than the mean length where lengths
 * differ. */
double tt_plan_time_length(const tt_plan_input *input);

/* plan was built from input, with input->train and facts of training data. events: NULL, or
 * receives the simulated step, to be freed by tt_simulated_free. Errors: ERR_MEMORY; ERR_INTERNAL
 * (numbers out of range). */
tt_status tt_plan_time_predict(const tt_plan_input *input, const tt_plan *plan,
                               const tt_plan_machine *machine, tt_plan_time *out,
                               tt_simulated *events, tt_error *err) TT_MUST_CHECK;

/* The assumptions and the result, in some lines of text. rate_source: where the curves come from,
 * in words. */
void tt_plan_time_print(const tt_plan_time *time, const tt_plan *plan,
                        const tt_plan_machine *machine, const char *rate_source, FILE *stream);

/* Least number of ranks, in n_replicas replicas of any number of stages, for which no rank needs
 * more than rank_bytes; 0: there is none. Errors: those of tt_plan_build. */
tt_status tt_plan_fewest_ranks(const tt_plan_input *input, int n_replicas, size_t rank_bytes,
                               int *n_ranks, tt_error *err) TT_MUST_CHECK;

/* The stage whose ranks need most. */
int tt_plan_largest_stage(const tt_plan *plan);

#endif
