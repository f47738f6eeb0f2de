/* rungs: successive halving among runs that know of each other only through a directory.
 *
 * At rung k, step first * eta^k (to the nearest evaluation), a run records its loss, looks at what
 * others have recorded there so far, and ends unless it is among the best 1/eta of them (rounded
 * up: the first to come always goes on). Nobody waits. Source: the stopping rule of ASHA, L. Li et
 * al., "A system for massively parallel hyperparameter tuning", MLSys 2020.
 *
 *     DIR/step-0000000300/r00017=3ffe666666666666.metric    empty: the name says all, so that a
 *                                                           listing is a comparison
 *     DIR/step-0000000300/r00017.kept, r00017.stopped       what was decided, in words
 *
 * What is recorded and decided stays: a run that comes there again, resumed from before the rung,
 * finds what it was told. Not collective. */
#ifndef TRIMTAB_RUNGS_H
#define TRIMTAB_RUNGS_H

#include <stdbool.h>
#include <stdint.h>

#include "trimtab/job.h"
#include "trimtab/status.h"

enum { TT_RUNG_WHY_BYTES = 160 };

typedef struct tt_verdict {
    bool known, stop;
    char why[TT_RUNG_WHY_BYTES]; /* "rung 2 at step 300: held-out loss 1.9, place 7 of 9" */
} tt_verdict;

/* The number of the rung at that step; -1: none is there, or the job has no rungs. Pure. */
int tt_rungs_at(const tt_job *job, int64_t step);

/* What was decided of run.name at that step's rung; not known: nothing yet. Errors: ERR_IO. */
tt_status tt_rungs_look(const tt_job *job, int64_t step, tt_verdict *out,
                        tt_error *err) TT_MUST_CHECK;

/* Records the loss (not finite: worse than all others) and decides, unless that was done. Errors:
 * ERR_IO, ERR_MEMORY. */
tt_status tt_rungs_decide(const tt_job *job, int64_t step, double loss, tt_verdict *out,
                          tt_error *err) TT_MUST_CHECK;

/* The same of run, of those that record in dir (halving.dir), whatever rungs there are. */
tt_status tt_rungs_told(const char *dir, int64_t step, const char *run, tt_verdict *out,
                        tt_error *err) TT_MUST_CHECK;

/* A rung as it stands: how many have come, how many of them were told to go on and to end, and the
 * smallest loss and the median (the lower of two); NaN: nobody has come. */
typedef struct tt_rung {
    int64_t step;
    int n, n_kept, n_stopped;
    double best, median;
} tt_rung;

/* All rungs of those that record in dir (halving.dir), by step: *n of them, to be freed; none when
 * it is not there. Errors: ERR_IO, ERR_MEMORY. */
tt_status tt_rungs_list(const char *dir, tt_rung **out, int *n, tt_error *err) TT_MUST_CHECK;

#endif
