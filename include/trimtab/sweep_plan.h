/* sweep_plan: lays out a sweep's directory (sweep.h) from its trials.
 *
 * Runs of one class go into groups in their order, at most trials->group of them and, where hours
 * are predicted, about trials->hours; a run that tunes all weights is a group of its own. Files are
 * written so that sweep.json, the last, is there only when all others are.
 *
 * A directory that holds the same plan already is left as it is. With extend, runs that are new are
 * added as new groups behind those that are there; all of these must be in the new plan too. Runs
 * are the same when their jobs are (tt_trials_id). */
#ifndef TRIMTAB_SWEEP_PLAN_H
#define TRIMTAB_SWEEP_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "trimtab/status.h"
#include "trimtab/trials.h"

/* What is expected of a run. */
typedef struct tt_sweep_forecast {
    int64_t n_steps; /* 0: not known */
    int64_t bytes;   /* of the rank that needs most, with all that train beside it; 0: not known */
    double hours;    /* of its steps; NaN: not known */
} tt_sweep_forecast;

typedef struct tt_sweep_planned {
    bool was_there; /* the same plan; nothing was written */
    int n_runs, n_groups;
    int n_new_runs, n_new_groups;
} tt_sweep_planned;

/* forecasts [trials->n]. Not collective. Errors: ERR_CONFIG (dir holds another plan, or something
 * else; a group's job would be too large), ERR_IO, ERR_MEMORY, those of tt_sweep_open. */
tt_status tt_sweep_plan_write(tt_trials *trials, const tt_sweep_forecast *forecasts,
                              const char *dir, bool extend, tt_sweep_planned *out,
                              tt_error *err) TT_MUST_CHECK;

#endif
