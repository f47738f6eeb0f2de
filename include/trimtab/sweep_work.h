/* sweep_work: one worker's share of a sweep: which group to work on next, held by a lease
 * (lease.h), and what became of it, in groups/gNNNN.outcome.json; older ones stay in
 * groups/gNNNN.history.jsonl.
 *
 *     {"attempt": 2, "failures": 1, "exit": 75, "status": "stopped on request ...", "why": "...",
 *      "host": "n12", "process": 4711, "seconds": 12.3, "time": 1764000000}
 *
 * A group is done when all its runs are through, or when another attempt would not change anything:
 * it ended with an exit code that is never tried again, or failed trials->attempts times. A worker
 * whose lease expired counts as a failure (exit 137). Being stopped (75) is none.
 *
 *     TT_TRY(tt_sweep_work_open(sweep, who, host, 120, &work, err));
 *     for (;;) {
 *         TT_TRY(tt_sweep_work_next(work, index, wait, &next, err));
 *         if (next.kind == TT_SWEEP_WAIT) { ... sleep ...; continue; }
 *         if (next.kind != TT_SWEEP_GROUP) break;
 *         status = ... the job groups/gNNNN.cfg, resumed where it stands ...
 *         TT_TRY(tt_sweep_work_end(work, status, why, seconds, err));
 *     }
 *     tt_sweep_work_close(work);
 *
 * Rank 0's. Not collective. */
#ifndef TRIMTAB_SWEEP_WORK_H
#define TRIMTAB_SWEEP_WORK_H

#include <stdbool.h>

#include "trimtab/status.h"
#include "trimtab/sweep.h"

typedef enum tt_sweep_next_kind {
    TT_SWEEP_NONE,  /* nothing left to do here: done, or others work on it */
    TT_SWEEP_GROUP, /* this one, whose lease is ours now */
    TT_SWEEP_WAIT,  /* ask again in a second: somebody may have died */
    TT_SWEEP_DONE,  /* the group asked for is done; exit_code says how */
    TT_SWEEP_TAKEN  /* somebody who lives works on the group asked for */
} tt_sweep_next_kind;

typedef struct tt_sweep_next {
    tt_sweep_next_kind kind;
    int group, attempt;
    int exit_code; /* DONE: 0, or that of the last attempt; NONE: 0, or of a group that was passed
                      over because its files are damaged */
    int n_left;    /* NONE: groups that are not done */
    char why[512]; /* DONE: what it failed with; TAKEN: who works on it */
} tt_sweep_next;

typedef struct tt_sweep_work tt_sweep_work;

/* who: a line for people, "host n12, process 77". expiry_s: of leases. Borrows sweep. Errors:
 * ERR_MEMORY. */
tt_status tt_sweep_work_open(tt_sweep *sweep, const char *who, const char *host, int expiry_s,
                             tt_sweep_work **out, tt_error *err) TT_MUST_CHECK;
void tt_sweep_work_close(tt_sweep_work *work);

/* Group `index`, or with -1 any that is free, those without failures first. wait: with any, others'
 * groups are waited for too. Errors: ERR_IO, ERR_MEMORY, ERR_CONFIG (no such group), those of
 * tt_sweep_look. */
tt_status tt_sweep_work_next(tt_sweep_work *work, int index, bool wait, tt_sweep_next *out,
                             tt_error *err) TT_MUST_CHECK;

/* The group ended so; its lease is given back. Nothing is written when the lease was lost. Errors:
 * ERR_IO, ERR_MEMORY. */
tt_status tt_sweep_work_end(tt_sweep_work *work, tt_status status, const char *why, double seconds,
                            tt_error *err) TT_MUST_CHECK;

/* Was the lease lost to somebody else? */
bool tt_sweep_work_is_lost(tt_sweep_work *work);

/* Lets group g be tried again, under its lease: failures are forgotten (their history stays), and
 * its runs that failed, and with diverged those that diverged, wait again. runs [n_runs]: only
 * these. *n: runs that wait again now; *held: somebody works on it, nothing was done. */
typedef struct tt_sweep_retry {
    bool failed, diverged;
    const unsigned char *runs; /* [n_runs]; NULL: all */
} tt_sweep_retry;
tt_status tt_sweep_work_retry(tt_sweep_work *work, int g, const tt_sweep_retry *what, int *n,
                              bool *held, tt_error *err) TT_MUST_CHECK;

#endif
