/* What the parts of trace_summary share: a trace file's events that count, by rank. */
#ifndef TRIMTAB_TRACE_SUMMARY_PRIVATE_H
#define TRIMTAB_TRACE_SUMMARY_PRIVATE_H

#include "trimtab/trace_summary.h"

/* What events are counted as. */
enum {
    TT_SEEN_STEP,
    TT_SEEN_COMPUTE,
    TT_SEEN_WAIT_X,
    TT_SEEN_WAIT_D,
    TT_SEEN_WAIT_SENT,
    TT_SEEN_WAIT_REDUCE,
    TT_SEEN_WAIT_ALL,
    TT_SEEN_SEND,
    TT_SEEN_REDUCE
};

typedef struct tt_trace_span {
    double start, end; /* seconds */
} tt_trace_span;

typedef struct tt_trace_seen {
    tt_trace_span span;
    double bytes;
    int what;
} tt_trace_seen;

typedef struct tt_trace_lane {
    int rank, stage, replica;
    bool is_named;
    int64_t n_dropped;
    tt_trace_seen *events; /* [n] */
    size_t n, n_room, n_steps;
} tt_trace_lane;

typedef struct tt_trace_seen_all {
    int n_ranks, n_stages, n_replicas;
    tt_trace_lane *lanes; /* [n_ranks] */
} tt_trace_seen_all;

/* Reads the file, or the trace of a run directory. seen must be freed also after a failure. Errors:
 * those of tt_trace_summary_read. */
tt_status tt_trace_see(const char *path, tt_trace_seen_all *seen, tt_error *err) TT_MUST_CHECK;
void tt_trace_seen_free(tt_trace_seen_all *seen);

#endif
