/* trace: what a rank does when, kept in memory until it is written (trace_file.h).
 *
 * A trace that is NULL, muted, over or full records nothing, at the price of a look at it; nothing
 * is allocated while recording. Times are of one clock of this process; tt_trace_align says how it
 * differs from the clock that all ranks are told by.
 *
 *     double start = tt_trace_now(trace);
 *     tt_stage_forward(...);
 *     tt_trace_add(trace, &(tt_trace_event){.kind = TT_TRACE_FORWARD, .start = start,
 *                                           .micro_batch = i});
 *
 * Kinds are of two sorts. What the rank does itself follows one after the other or lies inside
 * another (a layer inside forward, forward inside a step). What goes on beside it (a message, a sum
 * under way) may overlap anything. */
#ifndef TRIMTAB_TRACE_H
#define TRIMTAB_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trimtab/status.h"

/* kind, name, category, what it has beside times */
#define TT_TRACE_KINDS(X)                                                                          \
    X(STEP, "step", "step", TT_TRACE_HAS_NUMBER)                                                   \
    X(FORWARD, "forward", "compute", TT_TRACE_HAS_MICRO)                                           \
    X(BACKWARD, "backward", "compute", TT_TRACE_HAS_MICRO)                                         \
    X(FORWARD_LAYER, "forward layer", "layer", TT_TRACE_HAS_LAYER)                                 \
    X(BACKWARD_LAYER, "backward layer", "layer", TT_TRACE_HAS_LAYER)                               \
    X(UPDATE, "update", "compute", 0)                                                              \
    X(WAIT_X, "wait for x", "wait", TT_TRACE_HAS_MICRO | TT_TRACE_HAS_PEER)                        \
    X(WAIT_D, "wait for d", "wait", TT_TRACE_HAS_MICRO | TT_TRACE_HAS_PEER)                        \
    X(WAIT_SENT, "wait for room to send", "wait", TT_TRACE_HAS_PEER)                               \
    X(WAIT_REDUCE, "wait for sums", "wait", 0)                                                     \
    X(WAIT_ALL, "wait for all ranks", "wait", 0)                                                   \
    X(CHECKPOINT, "checkpoint", "other", 0)                                                        \
    X(EVAL, "eval", "other", 0)                                                                    \
    X(SEND_X, "send x", "send", TT_TRACE_HAS_MICRO | TT_TRACE_HAS_PEER | TT_TRACE_HAS_BYTES)       \
    X(SEND_D, "send d", "send", TT_TRACE_HAS_MICRO | TT_TRACE_HAS_PEER | TT_TRACE_HAS_BYTES)       \
    X(REDUCE, "reduce", "reduce", TT_TRACE_HAS_BYTES)

typedef enum tt_trace_kind {
#define TT_TRACE_ENUM(kind, name, category, has) TT_TRACE_##kind,
    TT_TRACE_KINDS(TT_TRACE_ENUM)
#undef TT_TRACE_ENUM
        TT_TRACE_N_KINDS
} tt_trace_kind;

enum {
    TT_TRACE_HAS_MICRO = 1,
    TT_TRACE_HAS_LAYER = 2,
    TT_TRACE_HAS_PEER = 4,
    TT_TRACE_HAS_BYTES = 8,
    TT_TRACE_HAS_NUMBER = 16
};

typedef struct tt_trace_event {
    double start, end; /* seconds of the trace's clock */
    int64_t bytes;     /* that travelled */
    int64_t number;    /* of the step */
    int32_t micro_batch;
    int16_t layer;
    int32_t peer; /* stage at the other end */
    uint8_t kind;
} tt_trace_event;

typedef struct tt_trace tt_trace;

/* max_steps: recording is over after so many. max_events: room; what comes when it is used up is
 * only counted. clock: seconds, NULL for tt_process_seconds. Freed by tt_trace_destroy. Errors:
 * ERR_MEMORY. */
tt_status tt_trace_create(size_t max_events, int64_t max_steps, double (*clock)(void),
                          tt_trace **out, tt_error *err) TT_MUST_CHECK;
void tt_trace_destroy(tt_trace *trace);

/* Is anything recorded at this moment? */
bool tt_trace_is_on(const tt_trace *trace);

/* Now, for the start of an event; 0 when nothing is recorded. */
double tt_trace_now(const tt_trace *trace);

/* Records an event that ends now; nothing when its start is 0: recording was off then. */
void tt_trace_add(tt_trace *trace, const tt_trace_event *event);

/* A step begins, and ends as an event of its own; with the end of max_steps recording is over.
 * Where several runs' steps overlap, a step begins where the last one to end left off. */
void tt_trace_begin_step(tt_trace *trace);
void tt_trace_end_step(tt_trace *trace, int64_t number);

/* While muted (an evaluation, whose passes are too many to be kept) nothing is recorded. */
void tt_trace_mute(tt_trace *trace, bool mute);

/* Have all steps that are to be recorded been? */
bool tt_trace_is_over(const tt_trace *trace);

/* At `local` on this clock the common clock showed local + offset. Of two calls or more, the first
 * and the last count: between them the offset changes evenly. */
void tt_trace_align(tt_trace *trace, double local, double offset);
double tt_trace_common(const tt_trace *trace, double local);

/* The clock itself. */
double tt_trace_clock(const tt_trace *trace);

/* What was recorded, in the order of the ends; events that found no room. */
size_t tt_trace_n_events(const tt_trace *trace);
const tt_trace_event *tt_trace_events(const tt_trace *trace);
size_t tt_trace_n_dropped(const tt_trace *trace);

/* Of the table above. Beside: goes on beside what the rank does. */
const char *tt_trace_name(tt_trace_kind kind);
const char *tt_trace_category(tt_trace_kind kind);
unsigned tt_trace_has(tt_trace_kind kind);
bool tt_trace_is_beside(tt_trace_kind kind);

#endif
