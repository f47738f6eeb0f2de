/* sweep_forecast: memory and hours of a sweep's runs before any of them is made: the plan's
 * prediction (plan.h, plan_time.h) of each kind of run, in the layout that its job asks for.
 *
 * Hours are those of a run's steps if it trained alone; evaluations, loading and what a cohort
 * saves are not counted. Curves of the machine come from a rate that is given, or from a short
 * measurement on this machine, once for each model. Collective over a world of one rank. */
#ifndef TRIMTAB_SWEEP_FORECAST_H
#define TRIMTAB_SWEEP_FORECAST_H

#include "trimtab/sweep_plan.h"
#include "trimtab/world.h"

typedef struct tt_sweep_machine {
    int n_ranks, ranks_per_node; /* of a group */
    int cores;                   /* of a rank */
    double rate;                 /* FLOP/s of a core; 0: measured */
    double seconds;              /* to measure, each model */
} tt_sweep_machine;

typedef struct tt_sweep_basis {
    char text[160]; /* where hours come from, in words */
    bool fits;      /* all do, in what this machine and the jobs allow */
    char why[512];  /* what does not */
} tt_sweep_basis;

/* out [trials->n]. Errors: those of tt_engine_prepare and tt_plan_build, with the run they concern;
 * ERR_MEMORY. */
tt_status tt_sweep_forecast_all(tt_world *world, tt_trials *trials, const tt_sweep_machine *machine,
                                tt_sweep_forecast *out, tt_sweep_basis *basis,
                                tt_error *err) TT_MUST_CHECK;

#endif
