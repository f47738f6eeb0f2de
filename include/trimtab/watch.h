/* watch: how a run, a cohort or a sweep comes on, looked at from outside, from the files it writes.
 *
 *     TT_TRY(tt_watch_open("runs/mine", &watch, err));
 *     do {
 *         TT_TRY(tt_watch_look(watch, err));
 *         tt_watch_print(watch, &style, stdout);
 *         sleep(2);
 *     } while (!watch->over);
 *     tt_watch_close(watch);
 *
 * Nothing is written, nothing is claimed, and whoever is watched does not notice. A run that was
 * killed looks like one that is slow: all that can be seen is for how long it has told nothing.
 * Not collective. */
#ifndef TRIMTAB_WATCH_H
#define TRIMTAB_WATCH_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "trimtab/history.h"
#include "trimtab/job.h"
#include "trimtab/roster.h"
#include "trimtab/status.h"

typedef enum tt_watch_kind { TT_WATCH_RUN, TT_WATCH_COHORT, TT_WATCH_SWEEP } tt_watch_kind;

/* One that trains, or the only one. */
typedef struct tt_watch_run {
    char name[TT_NAME_BYTES], dir[TT_PATH_BYTES];
    tt_member_status status;
    int64_t step, n_steps; /* n_steps 0: not known yet */
    double steps_per_s;    /* of this life so far; NaN: nothing told yet */
    double silent_s;       /* since it last told anything; NaN: never has */
    tt_history history;
} tt_watch_run;

typedef struct tt_watch {
    tt_watch_kind kind;
    char path[TT_PATH_BYTES];         /* as given */
    int n;                            /* runs in all */
    int n_with[TT_MEMBER_FAILED + 1]; /* by tt_member_status */
    int64_t step, n_steps;            /* of all together; those that ended early count as through */
    double eta_s;                     /* NaN: not known */
    bool over;                        /* nobody has anything left to do */
    int n_active;
    tt_watch_run *active; /* [n_active] those that train; of a run itself always */
    char lost[512];       /* the first that was given up, and why; "": none was */
    struct tt_watch_inside *inside;
} tt_watch;

/* path: a run's or cohort's directory, or a sweep's (which has a sweep.json). Closed by
 * tt_watch_close. Errors: ERR_MISSING (none of these), those of tt_sweep_open and tt_cohort_read.
 */
tt_status tt_watch_open(const char *path, tt_watch **out, tt_error *err) TT_MUST_CHECK;
void tt_watch_close(tt_watch *watch);

/* Looks (again). Errors: ERR_IO, ERR_FORMAT, ERR_MEMORY. */
tt_status tt_watch_look(tt_watch *watch, tt_error *err) TT_MUST_CHECK;

typedef struct tt_watch_style {
    int columns, rows; /* of the screen; at least 40 and 8 are taken */
    bool utf8;         /* block characters, else ASCII */
} tt_watch_style;

/* A page of at most style->rows lines; returns how many. */
int tt_watch_print(const tt_watch *watch, const tt_watch_style *style, FILE *stream);

/* A line of n columns: what values [n_values] are like over time, lowest to highest, the mean of
 * those that share a column; on a logarithmic scale where they are positive and span more than a
 * factor of ten. Values that are not finite are gaps. out has room for 3 * n + 1 bytes. */
void tt_watch_sparkline(const double *values, int n_values, int n, bool utf8, char *out);

#endif
