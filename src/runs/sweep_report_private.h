/* What the parts of sweep_report share (private to src/runs). */
#ifndef TRIMTAB_SWEEP_REPORT_PRIVATE_H
#define TRIMTAB_SWEEP_REPORT_PRIVATE_H

#include "trimtab/sweep_report.h"

/* Roles of the axes. Errors: ERR_CONFIG. */
tt_status tt_sweep_report_roles(tt_sweep_report *report, const tt_sweep_report_options *options,
                                tt_error *err) TT_MUST_CHECK;

/* Models, methods, tasks and seeds of all runs. Errors: ERR_CONFIG, ERR_MEMORY. */
tt_status tt_sweep_report_label(tt_sweep_report *report, tt_error *err) TT_MUST_CHECK;

/* Cells, settings, the best of them, gaps: from what is known of the runs. Errors: ERR_MEMORY. */
tt_status tt_sweep_report_choose(tt_sweep_report *report, tt_error *err) TT_MUST_CHECK;

/* Did a rung end run i? Then its why says so too. Errors: ERR_IO, ERR_MEMORY. */
tt_status tt_sweep_report_look_at_rung(tt_sweep_report *report, int i, tt_error *err) TT_MUST_CHECK;

/* Rungs of all classes. Errors: ERR_IO, ERR_MEMORY. */
tt_status tt_sweep_report_read_rungs(tt_sweep_report *report, tt_error *err) TT_MUST_CHECK;

int tt_sweep_report_cell(const tt_sweep_report *report, int model, int method, int task);

/* Spread of what a setting of the cell is shown with; NULL: nothing to show. */
const tt_sweep_setting *tt_sweep_report_best(const tt_sweep_report *report, int cell);

/* Fewest and most parameters that act, and that are trained, over a method's shown runs with a
 * model
 * (-1: all models); share of the model's. False: not known. */
typedef struct tt_sweep_range {
    int64_t fewest, most, trained;
    double least_percent, most_percent;
} tt_sweep_range;
bool tt_sweep_report_range(const tt_sweep_report *report, int model, int method,
                           tt_sweep_range *out);

double tt_sweep_report_percent(const tt_sweep_report_run *run); /* of the model; NaN: not known */

#endif
