/* sweep: a directory of many runs that belong together, as `trimtab sweep plan` lays it out, and
 * how every run stands.
 *
 *     SWEEP_DIR/sweep.json            name, axes, metric, how many runs and groups
 *     SWEEP_DIR/manifest.jsonl        one run a line: name, group, settings, predictions
 *     SWEEP_DIR/groups/g0003.cfg      the job of group 3: a cohort of its runs, or one ordinary run
 *     SWEEP_DIR/groups/g0003/         the cohort's run directory; a run's is groups/g0003/NAME
 *     SWEEP_DIR/groups/g0003.outcome.json   how the last attempt at the group ended
 *     SWEEP_DIR/leases/g0003          who works on it (lease.h)
 *
 * All paths inside are relative, so that the directory can be moved. What a run has come to is
 * written down once, by the run itself: cohort.json, metrics.jsonl, checkpoints and the outcome are
 * read, and nothing here is ever stored beside them.
 *
 *     TT_TRY(tt_sweep_open(dir, &sweep, err));
 *     for (int i = 0; i < sweep->n_runs; i++) {
 *         TT_TRY(tt_sweep_look(sweep, i, &state, err));
 *         ... sweep->runs[i].name, tt_member_status_name(state.status), state.held_out ...
 *     }
 *     tt_sweep_refresh(sweep);     later, before looking again
 *     tt_sweep_close(sweep);
 *
 * The files are taken as hostile: names that would lead out of the directory, runs that are not
 * there, numbers out of range are errors. Not collective. */
#ifndef TRIMTAB_SWEEP_H
#define TRIMTAB_SWEEP_H

#include <stdbool.h>
#include <stdint.h>

#include "trimtab/job.h"
#include "trimtab/roster.h"
#include "trimtab/status.h"

enum {
    TT_SWEEP_MAX_RUNS = 1 << 20,
    TT_SWEEP_MAX_AXES = 64,
    TT_SWEEP_NAME_BYTES = 24 /* of a group: "g0003" */
};

typedef enum tt_sweep_metric {
    TT_SWEEP_HELD_OUT_LOSS, /* less is better */
    TT_SWEEP_EXACT_MATCH    /* more is better */
} tt_sweep_metric;

typedef struct tt_sweep_axis {
    const char *name; /* "train.lr", "method", "task" */
    int n_values;
    const char *const
        *values; /* [n_values] as text, in the plan's order; of a random search none */
} tt_sweep_axis;

typedef struct tt_sweep_run {
    const char *name; /* "r00017" */
    const char *dir;  /* "groups/g0003/r00017", below the sweep's directory */
    int group;
    const char *const *values; /* [n_axes] by axis; NULL: the axis does not concern this run */
    int64_t n_steps;           /* 0: not known when it was planned */
    int64_t predicted_bytes;   /* of its group, per rank; 0: not predicted */
    double predicted_hours;    /* of the run; NaN: not predicted */
} tt_sweep_run;

typedef struct tt_sweep_halving {
    bool on;
    double eta;
    int64_t first; /* steps before the first rung */
} tt_sweep_halving;

typedef struct tt_sweep {
    char path[TT_PATH_BYTES]; /* as given */
    const char *name, *search;
    tt_sweep_metric metric;
    tt_sweep_halving halving;
    int n_runs, n_groups, n_axes;
    int attempts; /* at a group, before it counts as failed */
    const tt_sweep_axis *axes;
    const tt_sweep_run *runs; /* [n_runs] */
    struct tt_sweep_inside *inside;
} tt_sweep;

/* Reads sweep.json and manifest.jsonl. Closed by tt_sweep_close. Errors: ERR_MISSING (no sweep),
 * ERR_FORMAT (file:line: what is wrong), ERR_IO, ERR_MEMORY. */
tt_status tt_sweep_open(const char *dir, tt_sweep **out, tt_error *err) TT_MUST_CHECK;
void tt_sweep_close(tt_sweep *sweep);

/* How a run stands. */
typedef struct tt_sweep_state {
    tt_member_status status; /* waiting: also when it was stopped, and goes on later */
    int64_t step, n_steps;   /* 0: not known yet */
    double loss;             /* of the last step logged; these three NaN: none yet */
    double held_out, exact;  /* held-out loss; share of exact matches, 0 to 1 */
    const char *why;         /* why it diverged, failed or ended early; "" where there is nothing to
                                tell. Valid until the next refresh */
} tt_sweep_state;

/* State of run i. The first look at a run of a group reads the group's cohort.json, and only of
 * runs that train now the end of their metrics, so that looking at thousands is fast. Errors:
 * ERR_FORMAT (a file that trimtab did not write so), ERR_IO, ERR_MEMORY. */
tt_status tt_sweep_look(tt_sweep *sweep, int i, tt_sweep_state *out, tt_error *err) TT_MUST_CHECK;

/* From now on files are looked at anew; those that have not changed are not read again. */
void tt_sweep_refresh(tt_sweep *sweep);

/* How a group stands. */
typedef struct tt_sweep_group_state {
    int n, n_through;       /* runs; those that need no more work (all but waiting and active) */
    bool has_outcome;       /* an attempt has ended: */
    int attempt, exit_code; /* how often it was tried so far; of the last */
    int failures;           /* of the attempts since the last retry; being stopped is none */
    double seconds;         /* of the last */
    const char *status, *why, *host; /* of the last; "" where nothing is known */
    bool held;                       /* somebody's lease is there: */
    const char *holder;              /* "host, process 123", "" when it cannot be read */
    double heard_s; /* seconds since its holder was heard of, by this host's clock */
} tt_sweep_group_state;

/* State of group g; strings are valid until the next refresh. Errors: as tt_sweep_look. */
tt_status tt_sweep_look_at_group(tt_sweep *sweep, int g, tt_sweep_group_state *out,
                                 tt_error *err) TT_MUST_CHECK;

/* "g0003". */
void tt_sweep_group_name(int group, char out[TT_SWEEP_NAME_BYTES]);

/* Runs of group g, in the manifest's order: *n of them (borrowed). */
const int *tt_sweep_group_runs(const tt_sweep *sweep, int g, int *n);

/* What the runs of group g have in common with those they compete with: a plain name. */
const char *tt_sweep_class(const tt_sweep *sweep, int g);

/* Is group g one ordinary run, whose job is no cohort? */
bool tt_sweep_is_alone(const tt_sweep *sweep, int g);

/* Is there nothing left to do for a group? All its runs are through, or another attempt would not
 * change anything. */
bool tt_sweep_is_done(const tt_sweep *sweep, const tt_sweep_group_state *state);

/* May another attempt change anything after one ended with that exit code? Not after wrong
 * commands, jobs, data, models and divergence. */
bool tt_sweep_may_retry(int exit_code);

#endif
