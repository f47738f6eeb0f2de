/* trace_summary: where the time of a traced run's steps went, rank by rank.
 *
 * Read back from the file that trace_file wrote. Only steps that every rank has whole count;
 * evaluations and checkpoints between them do not. Shares of a rank's time in steps:
 *
 *     busy          forward, backward, update
 *     bubble        the rest; of it:
 *     wait          for x of the stage below, d of the stage above, room to send, sums over
 *                   replicas, all ranks at the end of the step
 *     idle          what is between the events
 *
 *     send, reduce  a message, a sum was under way, beside the rest
 *     overlap       of the time in which any of these was, the share that busy time hid; -1 when
 *                   that time is less than 1/10,000
 *
 * A message is under way until its sender notices the end, which it does after each layer. */
#ifndef TRIMTAB_TRACE_SUMMARY_H
#define TRIMTAB_TRACE_SUMMARY_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "trimtab/status.h"

typedef struct tt_trace_shares {
    double busy, bubble, wait, idle;
    double wait_x, wait_d, wait_sent, wait_reduce, wait_all; /* of wait */
    double send, reduce, overlap;
    double sent_bytes, reduced_bytes; /* a step */
} tt_trace_shares;

typedef struct tt_trace_rank {
    int rank, stage, replica;
    int64_t n_dropped; /* events that found no room; the steps before them are whole */
    double step_seconds;
    tt_trace_shares shares;
} tt_trace_rank;

typedef struct tt_trace_summary {
    int n_ranks, n_stages, n_replicas;
    int64_t n_steps;
    double step_seconds;  /* of the rank that takes longest, on average */
    tt_trace_shares mean; /* over ranks; bytes: of all ranks together */
    tt_trace_rank *ranks; /* [n_ranks] */
} tt_trace_summary;

/* path: a run directory or the file itself. Released by tt_trace_summary_free. Errors: ERR_MISSING,
 * ERR_FORMAT (no trace, or one of another program), ERR_IO, ERR_MEMORY. */
tt_status tt_trace_summary_read(const char *path, tt_trace_summary *out,
                                tt_error *err) TT_MUST_CHECK;
void tt_trace_summary_free(tt_trace_summary *summary);

/* A table for people; or one JSON object. */
void tt_trace_summary_print(const tt_trace_summary *summary, FILE *stream);
void tt_trace_summary_print_json(const tt_trace_summary *summary, FILE *stream);

#endif
