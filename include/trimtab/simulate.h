/* simulate: a training step event by event, in seconds, without doing any of it. Pure.
 *
 * A replica's stages run the actions of tt_schedule_build one after the other, as tt_pipeline_train
 * does: an action waits for what it is given and for room to put its result (two buffers a
 * direction, synchronous sends), the receive of message i + 2 is posted when i has been computed
 * on, and messages of one direction follow one another:
 *
 *     transfer i ends at  max(sender done with i, receiver done with i - 2, transfer i - 1 ended)
 *                         + latency + bytes / bandwidth
 *
 * Where two stages share memory they share the two buffers as well: nothing is moved but a count,
 * in the link's latency, and message i + 2 has room when the receiver is done with i.
 *
 * Computing is not slowed down by messages under way. When the last backward passes a layer, the
 * sum of that layer's gradients over replicas begins, one layer after the other; when every stage
 * has all of its sums, the step's few global numbers are summed over all ranks, and every rank
 * updates what it trains. All replicas do the same at the same time.
 *
 * A sum of n bytes over R ranks takes the least of
 *     log2(R) (latency + n / bandwidth)                          recursive doubling
 *     2 log2(R) latency + 2 (R - 1) / R n / bandwidth            recursive halving and doubling
 * (log2 rounded up). Source: Thakur, Rabenseifner, Gropp, "Optimization of Collective Communication
 * Operations in MPICH", 2005.
 *
 *     tt_simulation sim = {.n_stages = 2, .n_replicas = 1, .n_micro = 4, .forward = f, ...};
 *     TT_TRY(tt_simulate(&sim, &step, err));
 *     printf("%g s\n", step.step_s);
 *     tt_simulated_free(&step); */
#ifndef TRIMTAB_SIMULATE_H
#define TRIMTAB_SIMULATE_H

#include <stdbool.h>
#include <stdio.h>

#include "trimtab/status.h"

typedef struct tt_link {
    double latency, bandwidth; /* of a message: seconds; bytes a second */
} tt_link;

/* What is summed over a stage's replicas, and what is updated then. */
typedef struct tt_simulated_sums {
    int n_parts;       /* layers with something trained, from the highest down */
    double part_bytes; /* of each */
    double update_s;
} tt_simulated_sums;

/* All borrowed for the call. Seconds, bytes, all >= 0. */
typedef struct tt_simulation {
    int n_stages, n_replicas;
    int n_micro;                      /* of a replica */
    int first_backward;               /* lowest stage that runs backward; n_stages: none */
    const double *forward, *backward; /* [n_stages x n_micro] */
    const double *message_bytes;   /* [n_micro] of what a stage gives the next, and of the gradient
                                      that comes back; may be NULL with one stage */
    const tt_link *hops;           /* [n_stages - 1] between stages s and s + 1; likewise */
    const bool *shared;            /* [n_stages - 1] through memory of both; NULL: none */
    const tt_simulated_sums *sums; /* [n_stages] */
    tt_link across;                /* between the replicas of a stage */
    tt_link all;                   /* of the global sum, over n_stages * n_replicas ranks */
    double all_bytes;
    bool keep_spans;
} tt_simulation;

/* What a rank does, under the names that traces of real runs have. */
typedef enum tt_span_kind {
    TT_SPAN_FORWARD,
    TT_SPAN_BACKWARD,
    TT_SPAN_WAIT_X,    /* for the previous stage's output */
    TT_SPAN_WAIT_D,    /* for the next stage's gradient */
    TT_SPAN_WAIT_SENT, /* for a buffer: the neighbour has not received yet */
    TT_SPAN_WAIT_SUMS, /* for messages that still leave, then for gradients over replicas */
    TT_SPAN_WAIT_ALL,  /* for the other ranks, and the sum over all of them */
    TT_SPAN_UPDATE,
    TT_N_SPANS
} tt_span_kind;

typedef struct tt_span {
    tt_span_kind kind;
    int stage, micro_batch; /* -1: none */
    double begin, end;
} tt_span;

typedef struct tt_simulated {
    double step_s;
    double pipeline_s; /* until the last backward, or forward, is over on every stage */
    double sums_s;     /* after that: sums that nothing hides */
    double update_s;
    double work_s;  /* forward and backward of the busiest stage */
    double busy;    /* share of the step in which a rank works, mean over stages */
    double sent_s;  /* all transfers of the slowest hop and direction, one after the other */
    tt_span *spans; /* [n_spans] by stage, each in order of time; NULL unless keep_spans */
    int n_spans;
} tt_simulated;

/* Errors: ERR_MEMORY; ERR_INTERNAL (numbers out of range, a schedule that does not end). *out is
 * zeroed on failure, else freed by tt_simulated_free. */
tt_status tt_simulate(const tt_simulation *sim, tt_simulated *out, tt_error *err) TT_MUST_CHECK;
void tt_simulated_free(tt_simulated *out);

/* Seconds of a sum of so many bytes over so many ranks. */
double tt_simulate_sum_s(const tt_link *link, int n_ranks, double bytes);

/* The spans as a Chrome trace (also read by Perfetto): complete events in microseconds, a thread a
 * stage of replica 0. out was made with keep_spans. */
void tt_simulated_trace(const tt_simulated *out, FILE *stream);

#endif
